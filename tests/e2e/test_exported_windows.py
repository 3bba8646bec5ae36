"""xdg-foreign on sway: a dialog of one program over the window of another one."""

from __future__ import annotations

import contextlib

from tests.kit.wayland.client import Window
from tests.kit.wayland.stand import stand


async def test_a_dialog_of_another_program_floats_over_its_parent():
    async with stand(config="default_border none\n") as it:

        def inside():
            with contextlib.ExitStack() as programs:
                one = programs.enter_context(Window(it.path).start())
                parent, _, _ = one.show(200, 100, 0xFF00FF00)
                exporter = one.bind("zxdg_exporter_v2")
                exported = one.make(
                    exporter, "export_toplevel", "zxdg_exported_v2", None, parent
                )
                told = one.wait(lambda event: event[0] == exported)
                handle = told[3][0]
                one.roundtrip()
                other = programs.enter_context(Window(it.path).start())
                importer = other.bind("zxdg_importer_v2")
                plain, _, _ = other.show(200, 100, 0xFF0000FF)
                dialog = other.surface()
                xdg, _ = other.toplevel(dialog)
                made = other.make(
                    importer, "import_toplevel", "zxdg_imported_v2", None, handle
                )
                other.send(made, "set_parent_of", dialog)
                other.send(dialog, "commit")
                other.configured(xdg)
                other.paint(dialog, 100, 50, 0xFFFF0000)
                other.send(dialog, "commit")
                other.roundtrip()
                it.settled()
                assert plain
                return it.tree()

        import trio

        found = await trio.to_thread.run_sync(inside)
        assert sorted(node["type"] for node in found) == ["con", "con", "floating_con"]
