"""Rules that change under a running broker: all of a good set, nothing of another."""

from __future__ import annotations

import pytest
import trio

from broker.authority import file_watch, rules
from broker.core import limits
from broker.core.errors import RefusedError, UpstreamError
from broker.ipc.in_thread import NoThreadError
from tests.kit.rulebook import rulebook

GOOD = "a * * @adminvm allow\nb * * @adminvm deny\n"


async def answers(b):
    """Verdict and place for some calls."""
    found = []
    for service in ("a", "b", "c", "vitrail.Display"):
        try:
            async with b.decider.permit(b.request(service)) as permit:
                found.append(("allow", permit.where))
        except RefusedError as error:
            found.append(("deny", error.where))
    return found


@pytest.mark.parametrize(
    "broken",
    ["a * * * alow\n", "!include none\n", "\xff\n", "a\n", "a * * * allow x=\n"],
)
async def test_while_a_broken_file_is_there_nothing_changes(broken):
    """Not over a restart either; and it is said in log, status and desktop."""
    async with rulebook(GOOD) as b:
        before = await answers(b)
        (b.folder / "05-new.policy").write_bytes(
            b"b * * * allow\n" + broken.encode("latin-1")
        )
        await b.reload()
        assert await answers(b) == before
        (event,) = b.events("policy.refused")
        assert "05-new.policy:2" in event["problems"][0]
        assert event["policy"] == b.rules.digest
        assert "05-new.policy:2" in b.rules.lines()[0]
        assert "remain in force" in b.rules.lines()[-1]
        assert "Vitrail: the rules have an error" in [title for title, _ in b.told]
        await b.reload()
        assert len(b.events("policy.refused")) == 1, "it is said once"
        await b.start()
        assert await answers(b) == before
        assert b.rules.now.kept
        assert b.events("policy.loaded")[-1]["outcome"] == "kept"
        (b.folder / "05-new.policy").unlink()
        await b.reload()
        assert b.rules.lines() == []
        assert not b.rules.now.kept


async def test_a_first_start_with_a_broken_set_denies_everything_and_says_why():
    """What its good lines allow, too; mended, it holds without a restart."""
    async with rulebook("* * * * allow\nx\n") as b:
        assert {verdict for verdict, _ in await answers(b)} == {"deny"}
        with pytest.raises(RefusedError, match=r"50-test.policy:2 has an error"):
            await b.once("a")
        assert b.events("policy.loaded")[-1]["outcome"] == "denies all"
        assert "there is no valid set" in b.rules.lines()[-1]
        await b.change("50-test.policy", "* * * * allow\ny\nz\n")
        with pytest.raises(RefusedError, match=r"50-test.policy:2"):
            await b.once("a")
        await b.change("50-test.policy", GOOD)
        assert await b.once("a") == "dom0"


async def test_a_kept_set_that_was_tampered_with_is_not_used():
    async with rulebook(GOOD) as b:
        kept = b.paths.state / "policy" / "rules.json"
        assert kept.stat().st_mode & 0o777 == 0o600
        assert kept.parent.stat().st_mode & 0o777 == 0o700
        kept.write_text(kept.read_text().replace("deny", "allow"))
        b.write("60-broken.policy", "x\n")
        await b.start()
        assert {verdict for verdict, _ in await answers(b)} == {"deny"}


async def test_a_set_that_cannot_be_kept_holds_and_says_so():
    async with rulebook(GOOD, start=False) as b:
        b.paths.state.mkdir(parents=True)
        (b.paths.state / "policy").write_text("a file where a directory should be")
        await b.start()
        assert await b.once("a") == "dom0"
        assert "cannot save" in b.rules.lines()[-1]


async def test_what_cannot_be_recorded_does_not_come_into_force(monkeypatch):
    async with rulebook(GOOD) as b:
        before = b.rules.digest

        async def full(event):
            raise UpstreamError("the audit log cannot be written")

        b.write("05-new.policy", "b * * * allow\n")
        with monkeypatch.context() as disk:
            disk.setattr(b.log._store, "record", full)
            with pytest.raises(UpstreamError):
                await b.rules.reload()
            assert b.rules.digest == before
        assert await b.rules.reload()
        assert b.rules.digest != before


async def test_the_same_rules_on_other_lines_are_named_where_they_stand():
    async with rulebook(GOOD) as b:
        loaded = len(b.events("policy.loaded"))
        await b.change("50-test.policy", "# a remark\n" + GOOD)
        assert (await answers(b))[0][1].endswith(":2")
        assert len(b.events("policy.loaded")) == loaded, "they mean the same"


# -- noticing --------------------------------------------------------------------


async def rename_over(b, name, text):
    """As most editors save."""
    new = b.folder / f".{name}.tmp"
    new.write_text(text)
    new.rename(b.folder / name)


async def in_place(b, name, text):
    b.write(name, text)


async def through_a_link(b, name, text):
    """The file lies elsewhere; the kernel tells nothing of it here."""
    (b.path / "elsewhere").write_text(text)


async def whole_directory(b, name, text):
    """policy.d itself is renamed, as configuration management does."""
    other = b.folder.with_name("policy.new")
    other.mkdir()
    (other / name).write_text(text)
    b.folder.rename(b.folder.with_name("policy.old"))
    other.rename(b.folder)


async def by_mode(b, name, text):
    """Nothing is written, but others may write it now: no rules any more."""
    (b.folder / name).chmod(0o666)


@pytest.mark.parametrize(
    "how", [rename_over, in_place, through_a_link, whole_directory, by_mode]
)
async def test_a_change_is_noticed(how, monkeypatch):
    if how in {rename_over, in_place, by_mode}:
        # Then it is the kernel that told.
        monkeypatch.setattr(limits, "RULES_LOOK_SECONDS", 60.0)
    async with rulebook(GOOD) as b, trio.open_nursery() as nursery:
        if how is through_a_link:
            (b.path / "elsewhere").write_text(GOOD)
            (b.folder / "50-test.policy").unlink()
            (b.folder / "50-test.policy").symlink_to(b.path / "elsewhere")
            await b.reload()
        await b.follow(nursery)
        with trio.fail_after(30):
            await b.reloaded.wait()  # the look after the start
        done = b.reloaded
        await how(b, "50-test.policy", "a * * * deny\n")
        with trio.fail_after(30):
            await done.wait()
        if how is by_mode:
            assert b.rules.problems
        else:
            with pytest.raises(RefusedError, match=r"50-test.policy:1"):
                await b.once("a")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("error", [UpstreamError("full"), RuntimeError("a mistake")])
async def test_a_reading_that_fails_is_tried_again_and_said_once(
    monkeypatch, capsys, error
):
    monkeypatch.setattr(limits, "RULES_LOOK_SECONDS", 0.05)
    async with rulebook(GOOD) as b, trio.open_nursery() as nursery:
        reload, failed = b.reload, []

        async def failing():
            if len(failed) < 3:
                failed.append(error)
                raise error
            await reload()

        monkeypatch.setattr(b, "reload", failing)
        await b.follow(nursery)
        with trio.fail_after(30):
            await b.reloaded.wait()
        nursery.cancel_scope.cancel()
    assert capsys.readouterr().err.count("are not in force yet") == 1


async def test_rules_that_cannot_be_kept_are_in_force_all_the_same(monkeypatch):
    def no_thread(*_words):
        raise NoThreadError("cannot start a thread")

    async with rulebook(GOOD) as b:
        monkeypatch.setattr(rules, "keep", no_thread)
        await b.change("50-test.policy", "a * * * deny\n")
        with pytest.raises(RefusedError, match=r"50-test.policy:1"):
            await b.once("a")
        assert "cannot start a thread" in b.rules.lines()[-1]


@pytest.mark.parametrize("folder", ["sandboxes.d", "policy.d"])
async def test_links_that_lead_nowhere_do_not_end_the_watching(folder):
    """One to itself, and one to where we may not look (ELOOP, EACCES)."""
    async with rulebook(GOOD) as b, trio.open_nursery() as nursery:
        closed = b.path / "closed"
        closed.mkdir(mode=0)
        links = [b.folder.with_name(folder) / name for name in ("itself", "closed")]
        links[0].symlink_to("itself")
        links[1].symlink_to(closed / "x")
        try:
            await b.follow(nursery)
            with trio.fail_after(30):
                await b.reloaded.wait()
                assert bool(b.rules.problems) is (folder == "policy.d")
                for link in links:
                    link.unlink()
                done = b.reloaded
                b.write("50-test.policy", "a * * * deny\n")
                await done.wait()
                while b.rules.problems:
                    await b.reloaded.wait()
        finally:
            closed.chmod(0o700)
        with pytest.raises(RefusedError, match=r"50-test.policy:1"):
            await b.once("a")
        nursery.cancel_scope.cancel()


async def test_others_who_write_beside_them_cost_few_looks(monkeypatch):
    """A thousand files in the directory above cause no reading of the rules."""
    async with rulebook(GOOD) as b, trio.open_nursery() as nursery:
        await b.follow(nursery)
        with trio.fail_after(30):
            await b.reloaded.wait()
        looks = []
        look = file_watch.look

        def counted(*words):
            looks.append(words)
            return look(*words)

        monkeypatch.setattr(file_watch, "look", counted)
        began = trio.current_time()
        for _ in range(300):
            (b.folder / "sub").mkdir(exist_ok=True)
            (b.folder / "sub").rmdir()
            await trio.sleep(0)
        # On a slow machine it takes longer, and there may be more of them.
        paced = (trio.current_time() - began) / file_watch._PAUSE
        assert len(looks) < 2 * paced + 10
        nursery.cancel_scope.cancel()


async def test_a_file_that_is_included_from_elsewhere_is_watched():
    async with rulebook("!include sub/more\n", start=False) as b:
        (b.folder / "sub").mkdir()
        (b.folder / "sub" / "more").write_text(GOOD)
        await b.start()
        assert await b.once("a") == "dom0"
        async with trio.open_nursery() as nursery:
            await b.follow(nursery)
            with trio.fail_after(30):
                await b.reloaded.wait()
            done = b.reloaded
            (b.folder / "sub" / "more").write_text("a * * * deny\n")
            with trio.fail_after(30):
                await done.wait()
            with pytest.raises(RefusedError):
                await b.once("a")
            nursery.cancel_scope.cancel()


async def test_a_file_that_never_rests_is_read_all_the_same(monkeypatch):
    monkeypatch.setattr(limits, "RULES_SETTLE_MOST_SECONDS", 0.4)
    async with rulebook(GOOD) as b, trio.open_nursery() as nursery:
        await b.follow(nursery)
        with trio.fail_after(30):
            await b.reloaded.wait()
        done = b.reloaded

        async def scribble():
            number = 0
            while True:
                number += 1
                b.write("50-test.policy", f"# {number}\na * * * deny\n")
                await trio.sleep(0.03)

        nursery.start_soon(scribble)
        with trio.fail_after(30):
            await done.wait()
        nursery.cancel_scope.cancel()


async def test_directory_of_rules_is_replaced_by_renaming_a_link(tmp_path):
    """As docs/policy-rollout.md does: all files of a release take effect at once."""
    async with rulebook() as b, trio.open_nursery() as nursery:
        for release, verdict in (("1", "allow"), ("2", "deny")):
            (tmp_path / release).mkdir()
            rules = f"t.Ask * work @adminvm {verdict}\n"
            (tmp_path / release / "30-site.policy").write_text(rules)
        b.folder.rmdir()
        b.folder.symlink_to(tmp_path / "1")
        await b.follow(nursery)
        await b.rules.reload()
        assert await b.once()
        link = b.folder.with_name("new")
        link.symlink_to(tmp_path / "2")
        reloaded = b.reloaded
        link.replace(b.folder)
        with trio.fail_after(2 * limits.RULES_LOOK_SECONDS + 10):
            await reloaded.wait()
        with pytest.raises(RefusedError):
            await b.once()
        nursery.cancel_scope.cancel()
