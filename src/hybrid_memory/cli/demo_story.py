"""Who the demo is about, what is asked in it, how that is planned, and what is found out."""

USER = "nick"
LOOK_UP = "look the GenePoint account up in the customer system"
NOTE_OWNER = "write down who looks after GenePoint"
SUM_UP = "tell the user"
ANSWER = "answer from what is known"
NOTE_RENEWAL = "write down that GenePoint has renewed"
OWNER = "GenePoint is looked after by Sarah Lee."
RENEWAL = "GenePoint renewed its contract for two years."
PLANS = {
    "Who looks after GenePoint? Find out and remember it.": [LOOK_UP, NOTE_OWNER, SUM_UP],
    "Who was it that looks after GenePoint?": [ANSWER],
    "GenePoint has renewed, remember that.": [NOTE_RENEWAL],
}
FIND_OUT, ASK, TELL = PLANS
