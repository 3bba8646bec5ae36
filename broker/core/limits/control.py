"""Limits of brokerctl's socket, of rules in force and of questions."""

from __future__ import annotations

# -- control -----------------------------------------------------------------------

CONTROL_MESSAGE_BYTES = 1 << 20
"""A varlink message to or from brokerctl."""

CONTROL_FORWARDED = 64
"""Calls that wait for one of the processes that are not the authority."""

CONTROL_CLIENTS = 2 * CONTROL_FORWARDED + 16
"""Open control connections; each is a user's command.  Host and viewer may both hang:
that leaves places for the answer to a question and for the broker's end."""

CONTROL_CANCEL_SECONDS = 15.0
"""Time limit for another process to end a call whose client has disconnected, and its
processes."""

CONTROL_REPLY_SECONDS = 10.0
"""Time limit for a control client to read one reply: a client that does not read is
disconnected, and delays no other client."""

CONTROL_IDLE_SECONDS = 300.0
"""Time limit from one complete call to the next on a connection with none running.
Idle and half-sent connections must not use up CONTROL_CLIENTS."""

CONTROL_PIPELINED = 8
"""Calls that a control client may have sent before the first is answered."""

# -- rules in force and questions --------------------------------------------------

RULES_SETTLE_SECONDS = 0.1
"""How long files of rules must have been left alone before they are read: an
editor that writes in place is done by then, and half a file is not a policy."""

RULES_SETTLE_MOST_SECONDS = 2.0
"""Files that never come to rest are read after this all the same: a sandbox's
denial must not wait for a program that touches a file ten times a second."""

RULES_LOOK_SECONDS = 2.0
"""Between two looks at the files where the kernel reports nothing: symbolic
links into other directories, network file systems, directories that come."""

RULES_LOOKED_AT = 8192
"""Files and directories that one look covers; more than rules and records may be."""

RATE_SLOTS = 64
"""Into how many parts the time of a ``rate=`` is divided for counting.  Calls
are forgotten a part at a time, so at most a 64th later than they could be."""

RATE_COUNTERS = 4096
"""Counters of ``rate=``, one for each rule and sandbox: 512 leases, some
services each.  Beyond, the answer is deny until an older one has run out."""

LIVE_PERMITS = 8192
"""Permissions in use at one time, streams and everything else.  A record has half of them
at most: STREAMS_PER_SANDBOX of 16 disposables."""

QUESTION_SECONDS = 60.0
"""Time to answer a question, in seconds, from when it is on the screen.  A user who
reads it does not need longer, and an absent one must not find it hours later."""

QUESTION_WAIT_SECONDS = 180.0
"""Longest wait of a question until it is on the screen, in seconds."""

QUESTION_MOST_SECONDS = QUESTION_WAIT_SECONDS + QUESTION_SECONDS
"""Longest time between a request and its answer, in seconds."""

LATE_ANSWER_SECONDS = 120.0
"""Time in which a yes counts for the next connection of a sandbox whose client had
given up before the user answered."""

QUESTIONS_WAITING = 32
"""Questions of all sandboxes that wait at one time.  A user answers one in
five seconds, so more would be over before they are shown."""

QUESTIONS_PER_SANDBOX = 4
"""Different questions of one sandbox that wait at one time."""

QUESTION_ASKERS = 64
"""Equal requests that wait for one answer."""

QUESTIONS_PER_MINUTE = 6
QUESTIONS_BURST = 4
"""How often one sandbox may make a dialog appear; beyond it the answer is no
without one.  A user who works with it asks for less, and nagging until
the user gives in is an attack."""

QUESTION_AGAIN_SECONDS = 10.0
"""Time after a no by the user in which the same question is answered no."""

QUESTION_TARGETS = 256
"""Targets offered in one dialog: more cannot be surveyed.  Beyond it the answer is
deny, because a hidden target cannot be chosen, and leaving some out would be
a choice by the program."""

GRANTS = 1024
"""Answers that are remembered at one time."""

PROMPT_MESSAGE_BYTES = 1 << 17
"""A message between broker and prompt agent; a question with all its targets and a page."""

PROMPT_GUARD_SECONDS = 1.0
"""How long a dialog must have held the focus, without a break and without any
key or click, before it takes an answer."""

PROMPT_MOVED_SECONDS = 0.5
"""The same for a pointer that was moved onto the dialog over its edge, as a user does
who has read it: longer than the two presses of a double click are apart."""

PROMPT_GAP_SECONDS = 1.5
"""Between the end of one question and the next one, without a dialog on the screen: a
user who is about to press sees that it is another question."""

PROMPT_WORD_SECONDS = 0.4
"""How long the typed word must stand alone: 'amberlike' is not 'amber'."""

PROMPT_COVERED_SECONDS = 1.0
"""Time without the focus after which a dialog that is an ordinary window is reported as
covered: a click that only raises another window is not reported at once."""

PROMPT_RAISED_SECONDS = 0.5
"""Time limit for a compositor to raise the dialog by an activation token; after that
the dialog is shown as a new window."""

PROMPT_RAISES_SECONDS = 2.0
"""Between two times at which the user has a dialog brought to the front: a viewer that
was taken over would take the focus without end."""

PROMPT_REMIND_SECONDS = 20.0
"""Between notifications that the same question waits behind other windows."""

PROMPT_SLOW_SECONDS = 10.0
"""A prompt agent that takes longer to say that it is there is named in the log."""

PROMPT_START_SECONDS = 120.0
"""Time limit for a prompt agent to report that it is ready.  An emulated machine that
starts another needs half a minute; a question's own deadline ends earlier than one that
hangs."""

PROMPT_DEATHS = 3
PROMPT_DEATHS_SECONDS = 60.0
"""An agent that has died so often in so long is not started again before that
time is over; questions are then answered by 'brokerctl answer'."""

PHRASE_CHARS = (4, 80)
"""The user's secret phrase: long enough not to be guessed at first sight,
short enough for one line of the dialog."""

NOTIFICATIONS_PER_SANDBOX = 4
NOTIFICATIONS_PER_MINUTE = 12
"""Notifications in a minute about what one sandbox does of its own accord, and
about what all of them do; beyond it they are counted into its next one.  What the
person does or has to know (a copy or paste, a cut, an error in a file) is neither
counted nor left out."""

NOTIFICATIONS_WAITING = 64
"""Notifications of the user's own that wait for the desktop's server: a server that
hangs must not make us hold more.  The oldest is left out, on standard error."""
