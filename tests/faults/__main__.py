"""Disturbs commands, and looks at whether the same command then gives the bytes of an undisturbed run.

    python -m tests.faults --kills 100            # of training, and of inference with refinement: 200 in all
    python -m tests.faults --calls all            # each write, fsync, rename, mkdir and open of infer, edit and train
    python -m tests.faults --signals 20           # SIGINT, SIGTERM and SIGHUP to a training, so many each
    python -m tests.faults --ranks                # one of two processes of a training is killed, or stopped
    python -m tests.faults --permissions          # what may not be read or written, for a user who is not root

After each, inputs and earlier results are whole, too. Prints a line for each that fails, and the counts.
Exit code: 0 where none fails.
"""

import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

import train
from tests.faults.calls import Faults
from tests.faults.forks import MODULES, Command, commands, content, end, import_as, log, prepare, wrong
from tests.faults.permissions import CASES, NOBODY, told

SECONDS = 15  # in which all processes of a run must be gone after one is lost


class Trials:
    """Of one command: what it gives undisturbed, alone and after an earlier run."""

    def __init__(self, name: str, command: Command, folder: Path) -> None:
        self.name, self.command, self.folder = name, command, folder / name
        self.given, self.output, self.done, self.failed = content(command.inputs), self.folder / "output", 0, 0
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.early = self.folder / "early"
        self.expect(*command.run(self.early, earlier=True, **{MODULES: str(folder / "modules")}), "an earlier run")
        import_as(folder / "modules")
        self.earlier, started = content(self.early), time.monotonic()
        shutil.copytree(self.early, self.output)
        self.expect(*command.run(self.output), "undisturbed")
        self.seconds, self.whole = time.monotonic() - started, content(self.output)

    def expect(self, code: int, said: str, what: str) -> None:
        """RuntimeError where what should be well is not."""
        if code:
            raise RuntimeError(f"{self.name}, {what}: {code}: {said}")

    def fresh(self) -> None:
        """Only what the earlier run left."""
        shutil.rmtree(self.output)
        shutil.copytree(self.early, self.output)

    def give_away(self) -> None:
        """Let it belong to nobody, who runs the command."""
        for path in [self.folder, self.output, *self.output.rglob("*")]:
            if os.getuid() == 0:
                os.chown(path, NOBODY, NOBODY)

    def judge(self, what: str, reason: str = "") -> None:
        """Count a trial."""
        reason = reason or wrong(self.command, self.output, self.given, self.whole, self.earlier)
        self.done, self.failed = self.done + 1, self.failed + bool(reason)
        if reason:
            print(f"{self.name}: {what}: {reason}", flush=True)

    def fault(self, number: int, call: str) -> None:
        """A call fails: at most one line for each thing that failed, and no traceback."""
        self.fresh()
        code, said = self.command.run(self.output, inside=Faults(self.output, number).begin)
        lines = [line for line in said.replace("\r", "\n").splitlines() if line.startswith(("error:", "failed:"))]
        reason = ""
        # a second line is of the figures
        if "Traceback" in said or code not in (0, 1, 2) or bool(lines) != bool(code) or len(lines) > 2:
            reason = f"ends with {code}, and {len(lines)} lines: {said}"
        elif not code and content(self.output) != self.whole:
            reason = "the failure is not told"
        self.judge(f"call {number}, {call}", reason)

    def calls(self, count: int | None, random: random.Random) -> None:
        """Faults at all calls, or at so many."""
        self.fresh()
        record = self.folder / "calls"
        self.expect(*self.command.run(self.output, inside=Faults(self.output, None, record).begin), "counted")
        found = record.read_text().splitlines()
        numbers = range(len(found))
        chosen = numbers if count is None else sorted(random.sample(numbers, min(count, len(found))))
        log(f"{self.name}: {len(found)} calls, of which {len(chosen)} fail in turn")
        for number in chosen:
            self.fault(number, found[number])

    def kills(self, count: int, random: random.Random) -> None:
        """Kills at random moments; after a third of them the next one follows before the run has come to its end."""
        while count > 0:
            self.fresh()
            again = True
            while again and count > 0:
                self.interrupt(signal.SIGKILL, random.uniform(0, 1.05 * self.seconds))
                count, again = count - 1, random.random() < 1 / 3
            self.judge("killed")
            log(f"{self.name}: {count} kills to go, {self.failed} of {self.done} trials failed")

    def interrupt(self, number: int, seconds: float) -> tuple[int, float]:
        """A signal after so many seconds; the exit code and how long that took."""
        pid = self.command.start(self.output)
        time.sleep(seconds)
        sent = time.monotonic()
        os.kill(pid, number)
        return end(pid), time.monotonic() - sent

    def signals(self, count: int, random: random.Random) -> None:
        """Each of three signals so many times: the exit code is that of the signal, or 0 at the end."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) * count:
            self.fresh()
            code, _ = self.interrupt(number, random.uniform(0.3, 1) * self.seconds)
            allowed = (0, 128 + number, -number)  # the last one before the program has taken over
            self.judge(f"signal {number}", "" if code in allowed else f"ends with {code}")

    def ranks(self) -> None:
        """Two processes, of which the second one is killed, or stopped."""
        self.fresh()
        codes = [end(pid) for pid in self.pair()]
        self.expect(max(codes), "", "two processes")
        self.whole = content(self.output)
        for number in (signal.SIGKILL, signal.SIGSTOP):
            self.fresh()
            first, second = self.pair()
            while not list(self.output.glob("checkpoints/step-00000002.pt")):
                time.sleep(0.001)
            os.kill(second, number)
            lost = time.monotonic()
            codes, seconds = [end(first), end(second)], time.monotonic() - lost
            said, reason = self.output.with_suffix(".log").read_text(), ""
            if codes != [1, -signal.SIGKILL] or "another worker was lost (rank 1" not in said or "Traceback" in said:
                reason = f"end with {codes}: {said}"
            elif seconds > SECONDS:
                reason = f"took {seconds:.1f} s"
            again = [end(pid) for pid in self.pair()]
            if any(again):
                reason = reason or f"the same command ends with {again}"
            self.compare(f"rank 1 got signal {number}, {seconds:.1f} s", reason)

    def restarts(self) -> None:
        """torchrun starts both anew when the second one is killed; the weights are those of an undisturbed run."""
        self.fresh()
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
        program = [sys.executable, *launcher, train.__file__, *self.command.arguments(self.output)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with open(self.folder / "said", "w") as said:
            run = subprocess.Popen(program, env=environment, stdout=said, stderr=said)
        while not list(self.output.glob("checkpoints/step-00000002.pt")) and run.poll() is None:
            time.sleep(0.001)
        for process in psutil.Process(run.pid).children():
            if process.environ().get("RANK") == "1":
                process.kill()
        code, said = run.wait(), (self.folder / "said").read_text()
        reason = "" if code == 0 and said.count("resuming from") == 2 else f"ends with {code}: {said}"
        self.compare("rank 1 is killed, and restarted", reason)

    def compare(self, what: str, reason: str) -> None:
        """Count a trial of two processes, which must have come to the bytes of an undisturbed run."""
        found = content(self.output)
        if not reason and found != self.whole:
            reason = f"other bytes: {[name for name in self.whole if found.get(name) != self.whole[name]]}"
        self.done, self.failed = self.done + 1, self.failed + bool(reason)
        print(f"{self.name}: {what}: {reason or 'well'}", flush=True)

    def pair(self) -> list[int]:
        """The process ids of two ranks, of which the first one's words count."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        logs = {"0": None, "1": self.folder / "second.log"}
        return [
            self.command.start(self.output, said=words, RANK=rank, LOCAL_RANK=rank, **place)
            for rank, words in logs.items()
        ]


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0, help="of training, and as many of inference")
    parser.add_argument("--calls", default="0", help="how many fail in turn, of each command, or all")
    parser.add_argument("--signals", type=int, default=0, help="of each kind, to a training")
    parser.add_argument("--ranks", action="store_true", help="lose one of two processes of a training")
    parser.add_argument("--permissions", action="store_true", help="take rights away")
    parser.add_argument("--commands", nargs="+", default=["infer", "edit", "train"], help="only these")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    prepare()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        for name, command in commands(Path(folder)).items():
            if name not in options.commands:
                continue
            trials, numbers = Trials(name, command, Path(folder)), random.Random(options.seed)
            log(f"{name}: {trials.seconds:.2f} s undisturbed")
            if options.permissions:
                for case in (case for case, (program, *_) in CASES.items() if program == name):
                    trials.fresh()
                    trials.give_away()
                    trials.judge("permissions", next(told(command, trials.output, case), ""))
            if options.calls != "0":
                trials.calls(None if options.calls == "all" else int(options.calls), numbers)
            if name != "edit":
                trials.kills(options.kills, numbers)
            if name == "train":
                trials.signals(options.signals, numbers)
                if options.ranks:
                    trials.ranks()
                    trials.restarts()
            print(f"{name}: {trials.done} trials, {trials.failed} failed", flush=True)
            failed += trials.failed
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
