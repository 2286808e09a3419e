"""`multiframe info`: what one file is, and what it cost to find out."""

import json

from multiframe.cli.options import AsJson, File

__all__ = ["info"]


def info(file: File, as_json: AsJson = False) -> None:
    """Tell what a file is: syntax, frames, tables, and what each kind of viewer will do with it.

    Nothing is read but the header and the headers of Items; what that cost is told too.

        multiframe info cine.dcm --json
    """
    from multiframe.instance import open_instance, source_of
    from multiframe.telling import facts_of, tell_facts
    from multiframe.testing import CountingSource

    counted = CountingSource(source_of(file))
    instance = open_instance(counted, proof="whole")
    facts, index = facts_of(instance, file, counted), instance.index
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        tell_facts(facts, index)
    if index.damage and not len(index):
        raise index.damage.error()
