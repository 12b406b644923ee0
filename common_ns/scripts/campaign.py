"""`ns-campaign`: many scenes, many methods, one table; on this machine or on a cluster, and nothing lost."""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro

from common_ns.campaigns.description import Campaign, read_campaign, require_data, slug
from common_ns.campaigns.engine import Engine, Place
from common_ns.campaigns.fingerprint import Contents, known_methods
from common_ns.campaigns.plan import matching, runs_of
from common_ns.campaigns.progress import Display
from common_ns.campaigns.record import LOG, RunRecord, read_record
from common_ns.campaigns.report import write_report
from common_ns.campaigns.table import write_table
from common_ns.campaigns.work import is_taken, judge, known_steps, versions
from common_ns.data.files import require_writable
from common_ns.errors import InputError
from common_ns.nerfstudio_seam.last_words import report_input_errors

SELF_ENDING = "miner-"
"""Methods whose training ends by itself: a number of steps would but cut it off."""


@dataclass
class CampaignCommand:
    """What all subcommands take."""

    file: tyro.conf.Positional[Path]
    """The campaign's file, YAML or TOML."""
    output_dir: Path = Path("outputs/campaigns")
    """Folder that campaigns are written into, each into one of its name."""
    data_dir: Path | None = None
    """Where the scenes are, in place of what the file says."""
    campaign: tyro.conf.Suppress[Campaign] = field(init=False)

    @property
    def folder(self) -> Path:
        """The campaign's."""
        return self.output_dir / slug(self.campaign.name)

    def read(self) -> Campaign:
        """The campaign, checked.

        Raises: InputError if it cannot be carried out as it is.
        """
        self.campaign = campaign = read_campaign(self.file, self.data_dir)
        known = known_methods()
        for method in campaign.methods:
            if known is not None and method.method not in known:
                near = difflib.get_close_matches(method.method, known, 1)
                remedy = f"Did you mean {near[0]}?" if near else "Install its package; ns-train --help lists all"
                raise InputError(f"there is no method {method.method!r}", remedy, campaign.file)
            budget = campaign.budget.steps or campaign.budget.core_seconds
            if budget is not None and method.method.startswith(SELF_ENDING):
                problem = f"budget is given, and {method.method} ends by itself"
                remedy = "Put it into a campaign without one; --pipeline.model.fit.epochs says how long it trains"
                raise InputError(problem, remedy, campaign.file)
        return campaign


@dataclass
class Run(CampaignCommand):
    """Carry out what is missing or out of date."""

    on: Place = "local"
    """Where: as many at once as this machine has cores and GPUs for, on a SLURM cluster, or one after the other in this
    process."""
    only: tuple[str, ...] = ()
    """Carry out these runs only, by patterns of their names, such as "lego, *" or "*, seed 0". Default: all."""

    def main(self) -> None:
        """Carry it out, and write the table and the report."""
        campaign = self.read()
        scenes = tuple(dict.fromkeys(run.scene for run in matching(runs_of(campaign, self.folder), self.only)))
        require_data(replace(campaign, scenes=scenes))
        require_writable(self.folder, "--output-dir", folder=True)
        engine = Engine(campaign, self.folder, self.on, Display(), only=self.only)
        try:
            results = engine.run()
        except KeyboardInterrupt:
            print("Interrupted; the same command continues")
            raise SystemExit(130) from None
        print(f"Written: {write_table(campaign, self.folder)}, {write_report(campaign, self.folder)}")
        failed = [run for run in runs_of(campaign, self.folder) if results.get(run.name) == "failed"]
        if failed:
            raise InputError(
                f"{len(failed)} of {len(results)} runs have failed, the first: {failed[0].name}",
                "Read the end of its log; run goes on from where it ended",
                failed[0].folder / LOG,
            )


@dataclass
class Table(CampaignCommand):
    """Write the table of what is done so far, as Markdown and CSV, and print it."""

    def main(self) -> None:
        """Write and print it."""
        file = write_table(self.read(), self.folder)
        print(file.read_text(encoding="utf-8"))
        print(f"Written: {file}, {file.with_suffix('.csv')}")


@dataclass
class Report(CampaignCommand):
    """Write a page of what is done so far: figures, pictures side by side, curves, failures."""

    def main(self) -> None:
        """Write it."""
        print(f"Written: {write_report(self.read(), self.folder)}")


@dataclass
class Status(CampaignCommand):
    """Say what is done, what is missing, and what is out of date and why."""

    def main(self) -> None:
        """Print a line for each run that is not up to date, and a summary."""
        campaign = self.read()
        contents, counts = Contents(self.folder), Counter[str]()
        older: dict[str, set[str]] = {}
        for run in runs_of(campaign, self.folder):
            record = read_record(run.folder)
            try:
                steps, _ = known_steps(campaign, run, self.folder, contents)
                verdicts = judge(campaign, run, record, contents, steps)
                reasons = {stage: verdict.reason for stage, verdict in verdicts.items() if verdict.reason is not None}
            except KeyError:
                reasons = {"train": "missing" if record is None else "its steps are to be timed"}
            state, line = state_of(record, is_taken(run), reasons)
            counts[state] += 1
            if state != "up to date":
                print(f"{run.name}: {line}")
            for package, now in versions(run).items() if state == "up to date" and record is not None else ():
                if record is not None and record.versions.get(package, now) != now:
                    older.setdefault(f"{package} {record.versions[package]} (now {now})", set()).add(run.name)
        for version, names in older.items():
            print(f"{len(names)} runs were carried out with {version}; they stay as they are")
        print(f"{campaign.name}: " + ", ".join(f"{count} {state}" for state, count in counts.most_common()))
        if self.folder.is_dir():
            contents.save()


def state_of(record: RunRecord | None, taken: bool, reasons: dict[str, str]) -> tuple[str, str]:
    """A run's state in a word or two, and in a line.

    Args:
        record: what is known.
        taken: whether somebody is carrying it out.
        reasons: why each stage that is to be done is.
    """
    why = ", ".join(f"{stage}: {reason}" for stage, reason in reasons.items() if not reason.endswith("is done again"))
    if taken:
        stages = {} if record is None else record.stages
        stage = next((name for name, known in stages.items() if known.state == "running"), "its beginning")
        return "running", f"running ({stage})"
    if not reasons:
        return "up to date", "up to date"
    if record is None or not record.stages:
        return "missing", "missing"
    if record.state == "failed" and not any("changed" in reason for reason in reasons.values()):
        ends = [(name, known.attempts[-1]) for name, known in record.stages.items() if known.attempts]
        bad = [f"{name} {each.end.replace('_', ' ')}: {each.detail}" for name, each in ends if each.end != "done"]
        return "failed", f"failed ({'; '.join(bad) or why})"
    begun = any(known.attempts and known.attempts[-1].end == "interrupted" for known in record.stages.values())
    return ("interrupted", f"interrupted ({why})") if begun else ("out of date", f"out of date ({why})")


SUBCOMMANDS = {"run": Run, "status": Status, "table": Table, "report": Report}


def entrypoint() -> None:
    """Entry point of the console command."""
    report_input_errors()
    tyro.extras.subcommand_cli_from_dict(SUBCOMMANDS, prog="ns-campaign", description=__doc__).main()


if __name__ == "__main__":
    entrypoint()
