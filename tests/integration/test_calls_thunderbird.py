"""Thunderbird with gpg keys of another sandbox: it deciphers a mail, and signs one.

The real one, by GnuPG's own way for such keys, as docs/calls.md has it.
"""

from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager

import pytest

from broker.helpers.process.spawn import DEVNULL, spawn
from tests.integration.test_calls_gpg import ME, gpg, keys_of_another
from tests.kit.eventually import eventually
from tests.kit.marionette import Marionette, marionette
from tests.kit.needs import needs

pytestmark = [
    pytest.mark.long,
    *(needs(program, program) for program in ("thunderbird", "socat", "waypipe")),
    needs("gpg", "gnupg"),
]
PREFERENCES = {
    "marionette.port": 0,
    "mail.openpgp.allow_external_gnupg": True,
    "mail.accountmanager.accounts": "account1,account2",
    "mail.accountmanager.defaultaccount": "account2",
    "mail.accountmanager.localfoldersserver": "server1",
    "mail.account.account1.server": "server1",
    "mail.account.account2.server": "server2",
    "mail.account.account2.identities": "id1",
    "mail.server.server1.type": "none",
    "mail.server.server1.hostname": "Local Folders",
    "mail.server.server1.userName": "nobody",
    "mail.server.server1.directory-rel": "[ProfD]Mail/Local Folders",
    "mail.server.server2.type": "pop3",
    "mail.server.server2.hostname": "localhost",
    "mail.server.server2.userName": "me",
    "mail.server.server2.directory-rel": "[ProfD]Mail/me",
    "mail.server.server2.login_at_startup": False,
    "mail.smtpservers": "smtp1",
    "mail.smtpserver.smtp1.hostname": "localhost",
    "mail.identity.id1.useremail": ME,
    "mail.identity.id1.valid": True,
    "mail.identity.id1.smtpServer": "smtp1",
    # What its assistant sets by "Use your external key through GnuPG".
    "mail.identity.id1.is_gnupg_key_id": True,
}
MAIL = """\
From: you@example.test
To: me@example.test
Subject: from you
Message-ID: <one@example.test>
MIME-Version: 1.0
Content-Type: multipart/encrypted; protocol="application/pgp-encrypted"; boundary="cut"

--cut
Content-Type: application/pgp-encrypted

Version: 1

--cut
Content-Type: application/octet-stream

{}
--cut--
"""
IMPORT = """
const { BondOpenPGP } = load("chrome://openpgp/content/BondOpenPGP.sys.mjs");
const { EnigmailKeyRing } = load("chrome://openpgp/content/modules/keyRing.sys.mjs");
await BondOpenPGP.init();
await EnigmailKeyRing.importKeyDataSilent(window, arguments[0], true);
"""
OPEN = """
const { MailUtils } = load("resource:///modules/MailUtils.sys.mjs");
const file = Cc["@mozilla.org/file/local;1"].createInstance(Ci.nsIFile);
file.initWithPath(arguments[0]);
MailUtils.openEMLFile(main, file, Services.io.newFileURI(file));
"""
SHOWN = """
const about = main.document.getElementById("tabmail").currentAboutMessage;
const pane = about?.document.getElementById("messagepane");
const mark = about?.document.getElementById("encryptedHdrIcon");
return [pane?.contentDocument.body?.textContent.trim(), mark?.src];
"""
WRITE = """
const { MailServices } = load("resource:///modules/MailServices.sys.mjs");
const make = name => Cc["@mozilla.org/messengercompose/" + name + ";1"];
const parameters = make("composeparams").createInstance(Ci.nsIMsgComposeParams);
parameters.composeFields = make("composefields").createInstance(Ci.nsIMsgCompFields);
parameters.composeFields.to = "you@example.test";
parameters.composeFields.subject = "from me";
parameters.composeFields.body = "the signed text";
parameters.format = Ci.nsIMsgCompFormat.PlainText;
MailServices.compose.OpenComposeWindowWithParams(null, parameters);
"""
READY = """
const made = Services.wm.getMostRecentWindow("msgcompose");
return Boolean(made?.gMsgCompose?.editor && !made.gWindowLocked);
"""
SEND_LATER = """
const made = Services.wm.getMostRecentWindow("msgcompose");
made.gSendSigned = true;
made.goDoCommand("cmd_sendLater");
"""


@asynccontextmanager
async def thunderbird(work, key):
    profile = work.home / "profile"
    profile.mkdir()
    chosen = {
        f"mail.identity.id1.{name}": key
        for name in ("openpgp_key_id", "last_entered_external_gnupg_key_id")
    }
    (profile / "user.js").write_text(
        "".join(
            f"user_pref({json.dumps(name)}, {json.dumps(value)});\n"
            for name, value in {**PREFERENCES, **chosen}.items()
        )
    )
    words = ["thunderbird", "--headless", "--marionette", "--no-remote"]
    words += ["--remote-allow-system-access", "--profile", str(profile)]
    environ = {**os.environ, **work.env, "LANG": "C.UTF-8"}
    child = spawn(words, env=environ, stdout=DEVNULL, stderr=DEVNULL)
    try:
        async with marionette(profile) as program:
            await program.call("Marionette:SetContext", value="chrome")
            yield program
    finally:
        await child.stop()


async def run(program: Marionette, script: str, *arguments: str):
    """Run a script in Thunderbird's own context, as its parts are written."""
    text = (
        "const load = name => ChromeUtils.importESModule(name);\n"
        'const main = Services.wm.getMostRecentWindow("mail:3pane");\n'
        f"return (async function() {{{script}}})(...arguments);"
    )
    asked = program.call("WebDriver:ExecuteScript", script=text, args=arguments)
    return (await asked)["value"]


async def test_thunderbird_deciphers_and_signs_with_keys_of_another_sandbox():
    async with keys_of_another() as (work, vault):
        public = gpg(work, "gpg", "--armor", "--export", ME).decode()
        listed = gpg(work, "gpg", "--with-colons", "--list-keys").decode()
        key = listed.partition("\nfpr:")[2].split(":")[8][-16:]
        inner = b"Content-Type: text/plain\n\nthe deciphered text\n"
        always = ("gpg", "--armor", "--trust-model", "always")
        closed = gpg(vault, *always, "-r", ME, "-e", data=inner).decode()
        mail = work.home / "one.eml"
        mail.write_text(MAIL.format(closed))
        async with thunderbird(work, key) as program:
            await run(program, IMPORT, public)
            await run(program, OPEN, str(mail))

            async def deciphered():
                shown = await run(program, SHOWN)
                return (
                    shown if (shown[0] or "").endswith("the deciphered text") else None
                )

            assert "message-encrypted-ok" in (await eventually(deciphered))[1]
            await run(program, WRITE)
            await eventually(lambda: run(program, READY))
            await run(program, SEND_LATER)
            folder = work.home / "profile/Mail/Local Folders/Unsent Messages"

            async def written():
                text = folder.read_bytes() if folder.exists() else b""
                return text.replace(b"\r\n", b"\n").partition(b"\n--")[2]

            text = await eventually(written)
        mark, _, rest = text.partition(b"\n")
        content, signature, _ = rest.split(b"\n--" + mark)
        signed, made = work.home / "signed", work.home / "signed.asc"
        signed.write_bytes(content.replace(b"\n", b"\r\n"))
        made.write_bytes(signature.partition(b"\n\n")[2])
        said = gpg(work, "gpg", "--status-fd=1", "--verify", str(made), str(signed))
        assert f"GOODSIG {key}" in said.decode()
        assert not list((work.home / ".gnupg").glob("private-keys-v1.d/*"))
