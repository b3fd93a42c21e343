"""The users of the device: the open files of each, and a thread of each for what may take long."""

import logging
import threading
from collections import deque
from collections.abc import Callable

from ..errors import OutOfResources, WouldBlock
from ..runner.backend import Backend
from ..runner.devcrypto import Allowance, Sessions

log = logging.getLogger("cryptofs")

USERS_MAX = 256
"""Users with open files."""
FILES_MAX = 1024
"""Open files of one user."""
WAITING_MAX = 256
"""Requests of one user that wait for its thread: each may have 128 KiB of data."""
SESSIONS_MAX = 4096
"""Sessions of one user, over all its open files."""


class OpenFile:
    """One open file. user: who opened it, which a descriptor that is passed on does not change. poll_handle: of a
    poller that waits, or None.
    """

    def __init__(self, user: "User", backend: Backend) -> None:
        self.user = user
        self.sessions = Sessions(backend, user.allowance)
        self.poll_handle: int | None = None


class User:
    """A user's thread does that user's requests one after the other. No other user's wait for them."""

    def __init__(self, uid: int) -> None:
        self.uid = uid
        self.files = 0
        self.allowance = Allowance(SESSIONS_MAX)
        self._jobs: deque[tuple[int, Callable[[], None]]] = deque()
        self._working = False
        self._changed = threading.Condition()
        self._ends = False
        self._thread: threading.Thread | None = None

    @property
    def is_idle(self) -> bool:
        """Whether the thread has nothing to do, so that a request may be done in another one."""
        with self._changed:
            return not self._jobs and not self._working

    def give(self, unique: int, job: Callable[[], None]) -> None:
        """Have a job done after those before. unique: of its request. Errors: WouldBlock."""
        if len(self._jobs) >= WAITING_MAX:
            raise WouldBlock(f"{WAITING_MAX} requests of uid {self.uid} wait, which is all that may")
        self.give_last(job, unique)

    def give_last(self, job: Callable[[], None], unique: int = 0) -> None:
        """The same for a job that cannot be refused: a file that closes."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=f"uid {self.uid}", daemon=True)
            self._thread.start()
        with self._changed:
            self._jobs.append((unique, job))
            self._changed.notify()

    def take_back(self, unique: int) -> bool:
        """Forget a request that has not begun; returns whether there was one."""
        with self._changed:
            for each in self._jobs:
                if each[0] == unique:
                    self._jobs.remove(each)
                    return True
        return False

    def end(self) -> None:
        """Let the thread end after the jobs that it has."""
        with self._changed:
            self._ends = True
            self._changed.notify()

    def join(self, seconds: float) -> None:
        """Wait for the thread's end."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._working = False
                while not self._jobs:
                    if self._ends:
                        return
                    self._changed.wait()
                _, job = self._jobs.popleft()
                self._working = True
            try:
                job()
            except Exception:
                log.exception("a request of uid %d failed", self.uid)


class Users:
    """All users that have files open."""

    def __init__(self) -> None:
        self._by_uid: dict[int, User] = {}

    def enter(self, uid: int) -> User:
        """The user, who gets one more file. Errors: OutOfResources."""
        user = self._by_uid.get(uid)
        if user is None:
            if len(self._by_uid) >= USERS_MAX:
                raise OutOfResources(f"{USERS_MAX} users have the device open, which is all that may")
            user = self._by_uid[uid] = User(uid)
        if user.files >= FILES_MAX:
            raise OutOfResources(f"uid {uid} has {FILES_MAX} files open, which is all that one user may")
        user.files += 1
        return user

    def leave(self, user: User) -> None:
        """One of the user's files has closed; with the last one its thread ends."""
        user.files -= 1
        if not user.files:
            user.end()
            del self._by_uid[user.uid]

    def interrupt(self, unique: int) -> bool:
        """Forget a request that has not begun; returns whether there was one."""
        return any(user.take_back(unique) for user in self._by_uid.values())

    def close(self, seconds: float) -> None:
        """Let all threads end after their jobs, and wait for them."""
        users = list(self._by_uid.values())
        for user in users:
            user.end()
        for user in users:
            user.join(seconds)
