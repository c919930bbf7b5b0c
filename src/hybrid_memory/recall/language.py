"""The words of a text in the one form in which a question meets them: without case, accents and endings."""

import re
import unicodedata
from collections.abc import Iterable, Iterator

import Stemmer

# The same few words are most of what is said.
_MOST_STEMS = 10_000
_WORD = re.compile(r"[^\W_]+")
# Words that are in every text and tell nothing apart, and what is left of "don't" or "it's".
_EMPTY = {
    "english": """
        a about after all also am an and any are as at be because been being both but by can could d did do does
        doing don for from had has have having he her here hers herself him himself his how i if in into is it
        its itself just ll m me more most my myself no nor not now of on only or other our ours ourselves out
        own re s same she should so some such t than that the their theirs them themselves then there these they
        this those through to too until ve very was we were what when where which while who whom whose why will
        with would you your yours yourself
    """,
    "portuguese": """
        a ao aos aquela aquelas aquele aqueles aquilo as ate com como da das de dela delas dele deles depois do dos e
        ela elas ele eles em entre era eram essa essas esse esses esta estas estava estavam este estes estou eu foi
        foram for ha houve isso isto ja la lhe lhes mais mas me mesmo meu meus minha minhas muito na nao nas nem no nos
        nossa nossas nosso nossos num numa o onde os ou para pela pelas pelo pelos por porque qual quais quando quanto
        que quem se sem ser seu seus sao so sobre sua suas tambem te tem tinha teu teus tu tua tuas um uma umas uns
        voce voces
    """,
}
# Portuguese is often written without accents, by which its stemmer knows an ending; and it leaves some plurals alone.
_ENDINGS = {
    "portuguese": (
        (re.compile(r"(?:cao|coes)$"), "ção"),
        (re.compile(r"oes$"), "ão"),
        (re.compile(r"encias?$"), "ência"),
        (re.compile(r"ancias?$"), "ância"),
        (re.compile(r"ave(?:l|is)$"), "ável"),
        (re.compile(r"ive(?:l|is)$"), "ível"),
        (re.compile(r"(?<=\w\w)ens$"), "em"),
        (re.compile(r"(?<=\w\w\w\w)ais$"), "al"),
    )
}


class Language:
    """One language's stems and empty words; one thread at a time. Languages without a list here have no empty words."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._stemmer = Stemmer.Stemmer(name, 0)
        self._stems: dict[str, str] = {}
        self.empty = frozenset(_EMPTY.get(name, "").split())
        self._endings = _ENDINGS.get(name, ())

    def terms(self, text: str) -> Iterator[str]:
        """The words that tell anything, in their order."""
        return self.terms_of(plain_words(text))

    def terms_of(self, words: Iterable[str]) -> Iterator[str]:
        """The same of words without case and accents."""
        stems = self._stems
        for word in words:
            if word not in self.empty:
                yield stems.get(word) or self._stem(word)

    def _stem(self, word: str) -> str:
        if len(self._stems) >= _MOST_STEMS:
            self._stems.clear()
        stem = self._stems[word] = self._stemmed(word)
        return stem

    def _stemmed(self, word: str) -> str:
        for ending, spelt in self._endings:
            word, found = ending.subn(spelt, word)
            if found:
                break
        stem: str = self._stemmer.stemWord(word)
        return stem if stem.isascii() else _without_accents(stem)


def plain_words(text: str) -> list[str]:
    """The words without case and accents."""
    # Most text is ASCII, and taking it apart letter by letter is most of the time that indexing takes.
    return _WORD.findall(text.lower() if text.isascii() else _without_accents(text))


def _without_accents(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in plain if not unicodedata.combining(letter))
