"""Why a frame was not derained, or not published: the values are part of the public contract."""

BUILDING, DISABLED, DRY = "building", "disabled", "dry"
DEADLINE, FAILURE, OVERLOAD = "deadline", "failure", "overload"
INVALID, UNSUPPORTED, SHUTDOWN = "invalid", "unsupported", "shutdown"
