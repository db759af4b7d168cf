"""Processes that do not outlive the one that they work for."""

import os
import threading
import time
from typing import NoReturn

import psutil

POLL_SECONDS = 0.5


def die_with(pid: int) -> None:
    """End this process and its children soon after process `pid` has ended, however that ended.

    A daemon thread watches, so that it works after `kill -9` too, on any platform. A process that has ended
    already ends this one at once.
    """
    try:
        watched = psutil.Process(pid)
    except psutil.NoSuchProcess:
        _end()
    threading.Thread(target=_watch, args=(watched,), name=f"die-with-{pid}", daemon=True).start()


def kill_children(pid: int | None = None) -> None:
    """Kill all that process `pid` (this one if None) has started, and what those have started."""
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return
    # A child may start another between the listing and its end: look again until there is none.
    while children := [child for child in process.children(recursive=True) if _is_alive(child)]:
        for child in children:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(children, timeout=1)


def _watch(process: psutil.Process) -> None:
    while _is_alive(process):
        time.sleep(POLL_SECONDS)
    _end()


def _is_alive(process: psutil.Process) -> bool:
    try:
        # `is_running` compares creation times, so a reused process id is not taken for the one watched.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _end() -> NoReturn:
    kill_children()
    os._exit(1)
