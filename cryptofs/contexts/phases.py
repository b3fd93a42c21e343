"""How far each open handle of a stream is with its message."""

from enum import Enum

from ..errors import Busy, Cancelled, InvalidValue


class Phase(Enum):
    """How far an open handle is with its message."""

    FRESH = "nothing was written or read"
    FEEDING = "it has written a part"
    READING = "its read has ended the message"
    OVERRUN = "it was written to when its read had ended the message"
    DONE = "its message's end of file, or error, was read"
    CUT = "a reset has dropped its message"


class StreamUser:
    """One open handle of the stream, and the rule that no data is lost without an error: one open is one message.

        phase      write                  read, on a handle that also writes
        FRESH      -> FEEDING             ends a message, if only an empty one -> READING
        FEEDING    goes on                ends the message -> READING
        READING    EBUSY -> OVERRUN       output, then the end of file -> DONE
        OVERRUN    EBUSY                  output, then EBUSY instead of the end of file -> DONE
        DONE       EBUSY                  EINVAL
        CUT        ECANCELED              ECANCELED -> FRESH

    A handle that only writes stays FEEDING, or CUT, until it is closed. One that only reads is FRESH, because it may
    read one message after the other, or CUT for one read. A reset makes what is DONE FRESH again.
    """

    __slots__ = ("_begun", "at_end", "phase", "reads", "writes")

    def __init__(self, reads: bool, writes: bool) -> None:
        self.reads = reads
        self.writes = writes
        self.phase = Phase.FRESH
        self.at_end = False
        """Whether the next read gives the end of file."""
        self._begun = False
        """Whether a part of a message was read, and its end was not."""

    @property
    def feeds(self) -> bool:
        """Whether the message cannot end yet, because this handle may write more of it."""
        return self.phase is Phase.FEEDING or (self.phase is Phase.FRESH and not self.reads)

    @property
    def stopped(self) -> bool:
        """Whether a write is refused whatever the stream's state is."""
        return self.phase not in (Phase.FRESH, Phase.FEEDING)

    def check_write(self) -> None:
        """Called before data is taken. Errors: Busy, Cancelled."""
        if self.phase is Phase.CUT:
            raise Cancelled("a reset has dropped the message: close this descriptor and write the message again")
        if self.stopped:
            if self.phase is Phase.READING:
                self.phase = Phase.OVERRUN
            raise Busy("a read has ended the message of this descriptor: open the file again for the next message")

    def wrote(self) -> None:
        """A part was taken."""
        self.phase = Phase.FEEDING

    def check_read(self) -> None:
        """Called before output is given. Errors: Cancelled, once; InvalidValue behind the end of file."""
        if self.phase is Phase.CUT and self.reads:
            self.phase = Phase.FRESH
            raise Cancelled("a reset has dropped the message")
        if self.phase is Phase.DONE:
            raise InvalidValue("the end of file was read: open the file again for the next message, also an empty one")

    def turn(self) -> Phase:
        """A handle that also writes reads; returns what its phase was."""
        before = self.phase
        if not self.stopped:
            self.phase = Phase.READING
        return before

    def read(self, ends: bool) -> None:
        """Output was given. ends: the message's end of file comes next."""
        self._begun = True
        self.at_end = ends

    def end(self) -> bytes:
        """The end of file. Errors: Busy instead of it, if data was refused that the writer took for a part of this."""
        overrun = self.phase is Phase.OVERRUN
        self.at_end = self._begun = False
        if self.writes:
            self.phase = Phase.DONE
        if overrun:
            raise Busy("more was written when a read had ended the message: this output is not the whole")
        return b""

    def cut(self, dropped: bool) -> None:
        """A reset. dropped: whether there was a message or output on the stream."""
        if self.phase is Phase.DONE:
            self.phase = Phase.FRESH
        elif self.phase is not Phase.FRESH or (not self.writes and (dropped or self._begun)):
            self.phase = Phase.CUT
        self.at_end = self._begun = False
