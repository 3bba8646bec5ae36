"""Programs as people have them, each with what it must do: here and in a sandbox alike.

A row's ``script`` is run by sh in an empty home, directly and then inside; what it prints
has ``says``.  A row with ``title`` shows a window instead, whose title has it.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Program:
    """One program: ``package`` is Debian's, ``does`` what the page says of it.

    ``setting``: a line of ``[launch]`` that it needs; ``of_record``: why it needs a
    record.  Without a record such a program does not do it in a box, and the page says so.
    """

    name: str
    package: str
    does: str
    script: str
    says: str = ""
    title: str = ""
    short: bool = False
    setting: str = ""
    of_record: str = ""
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """Return the programs of the row that this machine lacks."""
        wanted = self.needs or (self.name,)
        return [word for word in wanted if shutil.which(word) is None]

    @property
    def record_only(self) -> bool:
        """Return whether a box without a record is not enough."""
        return bool(self.setting or self.of_record)

    def said(self, output: str) -> bool:
        """Return whether the output shows that the program has done it."""
        return re.search(self.says, output) is not None


_FORKS = (
    "from multiprocessing import Pool, Lock\nLock()\n"
    "def f(n): return n*n\n"
    "if __name__ == '__main__':\n    print(sum(Pool(2).map(f, range(10))))\n"
)
_TONE = "import math,struct,wave\nw=wave.open('t.wav','wb');w.setnchannels(1);w.setsampwidth(2);w.setframerate(8000)\nw.writeframes(b''.join(struct.pack('<h',int(9000*math.sin(n/5))) for n in range(4000)));w.close()\n"
_SERVE = "mkdir s; echo 'hello there' > s/page; python3 -u -m http.server -b 127.0.0.1 -d s 0 >log 2>&1 & until grep -q port log 2>/dev/null; do sleep 0.1; done; P=$(sed -n 's/.*port \\([0-9]*\\).*/\\1/p' log | head -1); "


def _python(code: str) -> str:
    quoted = code.replace("'", "'\\''")
    return f"printf '%s' '{quoted}' > x.py; python3 x.py"


PROGRAMS = (
    # -- languages ---------------------------------------------------------------------
    Program("node", "nodejs", "a worker thread answers", """node -e 'const {Worker}=require("worker_threads");new Worker("require(\\"worker_threads\\").parentPort.postMessage(7)",{eval:true}).on("message",m=>console.log("got",m))'""", "got 7", short=True),
    Program("npm", "npm", "installs a pure package and runs it", """mkdir a b; cd a; printf '{"name":"aa","version":"1.0.0","main":"i.js"}' > package.json; echo 'module.exports=42' > i.js; npm pack --silent >/dev/null; cd ../b; npm init -y >/dev/null; npm install --offline --silent ../a/aa-1.0.0.tgz; node -e 'console.log("is", require("aa"))'""", "is 42"),
    Program("python3", "python3", "multiprocessing with locks and a pool", _python(_FORKS), "^285", short=True),
    Program("python3 -m venv", "python3-venv", "an environment with its pip", "python3 -m venv v && v/bin/pip --version && v/bin/python -c 'import sys; print(sys.prefix)'", "/v$", needs=("python3", "pip3")),
    Program("asyncio", "python3", "a server, a client and a child process", _python("import asyncio\nasync def main():\n async def h(r,w):\n  w.write(await r.readline()); await w.drain(); w.close()\n s=await asyncio.start_server(h,'localhost',0)\n r,w=await asyncio.open_connection('localhost',s.sockets[0].getsockname()[1])\n w.write(b'echoed\\n'); print((await r.readline()).decode())\n p=await asyncio.create_subprocess_exec('true'); print('child', await p.wait())\nasyncio.run(main())\n"), "echoed\\s+child 0", short=True, needs=("python3",)),
    Program("shared memory", "python3", "POSIX shared memory between two processes", _python("from multiprocessing import shared_memory, Process\ndef f(n):\n m=shared_memory.SharedMemory(n); m.buf[0]=9; m.close()\nif __name__=='__main__':\n m=shared_memory.SharedMemory(create=True,size=4096); p=Process(target=f,args=(m.name,)); p.start(); p.join(); print('shared', m.buf[0]); m.close(); m.unlink()\n"), "shared 9", short=True, needs=("python3",)),
    Program("java", "default-jdk-headless", "compiles and runs a class with a thread", "printf 'class A{public static void main(String[] a)throws Exception{Thread t=new Thread(()->System.out.println(\"java \"+6*7));t.start();t.join();}}' > A.java; java A.java", "java 42"),
    Program("keytool", "default-jre-headless", "Java's certificate store has entries", "keytool -list -cacerts -storepass changeit 2>&1 | grep -c trustedCert", "[1-9][0-9]"),
    Program("rustc", "rustc", "compiles and runs", "echo 'fn main(){ println!(\"rust {}\", 6*7) }' > a.rs; rustc a.rs && ./a", "rust 42"),
    Program("cargo", "cargo", "makes and runs a project without a network", "cargo init --vcs none --name a p >/dev/null 2>&1; cd p; cargo run --offline 2>/dev/null", "Hello, world"),
    Program("gcc", "gcc", "compiles, links with the mathematics library and runs", "printf '#include <math.h>\\n#include <stdio.h>\\nint main(int c,char**v){printf(\"%%.3f\\\\n\",sqrt(c+1.0));}' > a.c; gcc -O2 a.c -lm -o a && ./a", "1.414", short=True),
    Program("make", "make", "builds in parallel", "printf 'all: x y\\n\\t@echo both\\nx y:\\n\\t@sleep 0.1; echo $@\\n' > Makefile; make -j4", "both"),
    Program("cmake", "cmake", "configures and builds with ninja", "echo 'int main(){return 0;}' > a.c; printf 'cmake_minimum_required(VERSION 3.10)\\nproject(p C)\\nadd_executable(a a.c)\\n' > CMakeLists.txt; cmake -G Ninja -B o . >/dev/null && ninja -C o && o/a && echo built", "built", needs=("cmake", "ninja", "gcc")),
    Program("perl", "perl", "forks and reads a pipe", "perl -e 'open(P,\"-|\",\"echo child\"); print \"from \",<P>; print sprintf(\"%s\\n\", (getservbyname(\"https\",\"tcp\"))[2]);'", "from child\\s+443", short=True),
    Program("tclsh", "tcl", "an event loop with a timer", "echo 'after 50 {puts tick; exit}; vwait forever' > a.tcl; tclsh a.tcl", "tick"),
    Program("awk", "mawk", "counts", "seq 10 | awk '{s+=$1} END {print s}'", "^55"),
    Program("bc", "bc", "many digits", "echo 'scale=20; 4*a(1)' | bc -l", "3.14159265358979"),
    Program("jq", "jq", "a query", "echo '{\"a\":[1,2]}' | jq '.a|add'", "^3"),
    Program("valgrind", "valgrind", "finds no leak in a program", "valgrind --error-exitcode=9 true 2>&1 | tail -1; echo done", "0 errors"),
    Program("gdb", "gdb", "breaks at main and continues", "printf 'int main(){return 0;}' > a.c; gcc -g a.c -o a; gdb -batch -ex 'break main' -ex run -ex cont ./a 2>&1", "exited normally", needs=("gdb", "gcc")),
    Program("strace", "strace", "follows a program", "strace -e trace=execve true 2>&1", "execve.*= 0"),
    # -- data and the network of the box itself ----------------------------------------
    Program("sqlite3", "sqlite3", "a database in WAL mode", "sqlite3 a.db 'pragma journal_mode=wal; create table t(x); insert into t values(41); select x+1 from t'", "42", short=True),
    Program("postgres", "postgresql-15", "a cluster of its own, a table and a query", "export PATH=$PATH:$(ls -d /usr/lib/postgresql/*/bin | tail -1); initdb -D d -A trust >/dev/null && pg_ctl -D d -o \"-k $PWD -h ''\" -l l -w start >/dev/null; psql -h \"$PWD\" postgres -Atc 'create table t(x int); insert into t values(41); select x+1 from t'; pg_ctl -D d -m fast stop >/dev/null", "^42|\\n42", needs=("psql",)),
    Program("nginx", "nginx-core", "serves a page", "printf 'daemon off; pid p; error_log e; events{} http{access_log off; client_body_temp_path b; proxy_temp_path b1; fastcgi_temp_path b2; uwsgi_temp_path b3; scgi_temp_path b4; server{listen 127.0.0.1:18080; root '$PWD'/w;}}' > n.conf; mkdir w; echo served > w/i; /usr/sbin/nginx -p $PWD -c n.conf 2>/dev/null & N=$!; for i in $(seq 50); do curl -sf http://127.0.0.1:18080/i && break; sleep 0.1; done; kill $N", "served", needs=("nginx", "curl")),
    Program("curl", "curl", "loads a page of a server", _SERVE + "curl -s http://localhost:$P/page; kill $!", "hello there", short=True),
    Program("wget", "wget", "loads a page of a server", _SERVE + "wget -qO- http://127.0.0.1:$P/page; kill $!", "hello there"),
    Program("CA store", "ca-certificates", "OpenSSL has the machine's certificates", _python("import ssl\nprint('certificates', len(ssl.create_default_context().get_ca_certs()) > 50)\n"), "certificates True", short=True, needs=("python3",)),
    Program("openssl", "openssl", "a server and a client by TLS", "openssl req -x509 -newkey rsa:2048 -nodes -keyout k -out c -days 2 -subj /CN=localhost 2>/dev/null; openssl s_server -quiet -key k -cert c -accept 127.0.0.1:18443 -www >/dev/null 2>&1 & S=$!; for i in $(seq 50); do curl -s --cacert c https://localhost:18443/ | grep -m1 -o 's_server' && break; sleep 0.1; done; kill $S", "s_server", needs=("openssl", "curl")),
    Program("git", "git", "commits, clones and merges", "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b; git init -q -b main r; cd r; echo 1 > f; git add f; git commit -qm one; cd ..; git clone -q r c; git -C c log --oneline", "one", short=True),
    Program("rsync", "rsync", "copies a tree", "mkdir -p a/b; echo x > a/b/c; rsync -a a/ z/ && cat z/b/c", "^x"),
    Program("gpg", "gnupg", "makes a key, signs and verifies", "mkdir -m 700 g; export GNUPGHOME=$PWD/g; gpg --batch --quiet --passphrase '' --quick-gen-key me default default 0 2>/dev/null; echo t > t; gpg --batch -q -s t 2>/dev/null; gpg --verify t.gpg 2>&1; gpgconf --kill all", "Good signature"),
    Program("ssh-agent", "openssh-client", "holds a key", "ssh-keygen -q -t ed25519 -N '' -f k -C mykey; eval $(ssh-agent) >/dev/null; ssh-add -q k; ssh-add -l; ssh-agent -k >/dev/null", "mykey", needs=("ssh-agent", "ssh-add", "ssh-keygen")),
    Program("tmux", "tmux", "a session with a program", "SHELL=/bin/sh tmux -S $PWD/t new -d 'echo inside > o; sleep 5'; for i in $(seq 50); do [ -s o ] && break; sleep 0.1; done; cat o; tmux -S $PWD/t kill-server", "inside"),
    Program("tar", "tar", "packs with xz and unpacks", "mkdir a; echo x > a/f; tar cJf a.tar.xz a && rm -r a && tar xf a.tar.xz && cat a/f", "^x", needs=("tar", "xz")),
    Program("zip", "zip", "packs", "echo x > f; zip -q a.zip f && python3 -m zipfile -l a.zip", "f ", needs=("zip", "python3")),
    # -- what a program asks the system -------------------------------------------------
    Program("getent", "libc-bin", "services, protocols, users and its own host name", "getent services https; getent protocols tcp; getent passwd $(id -u); getent hosts $(hostname) && echo named", "https[^$]*tcp[^$]*named", short=True),
    Program("locale", "libc-bin", "has UTF-8", "LC_ALL=C.UTF-8 locale charmap", "UTF-8"),
    Program("date", "tzdata", "knows time zones", "TZ=Europe/Paris date -d 2026-07-01T12:00Z +%H%Z", "14CEST"),
    Program("fc-match", "fontconfig", "finds a font", "fc-match sans", "\\.(ttf|otf|pfb|pcf)", short=True),
    Program("xdg-mime", "shared-mime-info", "knows the type of a file", "echo '%PDF-1.4' > a.pdf; python3 -c \"import mimetypes; print(mimetypes.guess_type('a.pdf')[0])\"; grep -c . /usr/share/mime/globs2", "application/pdf\\s+[0-9]{3}", needs=("python3",)),
    Program("tput", "ncurses-base", "knows terminals", "TERM=xterm-256color tput colors", "256"),
    Program("mktemp", "coreutils", "temporary files and a FIFO", "d=$(mktemp -d); mkfifo $d/f; (echo through > $d/f &) ; cat $d/f", "through"),
    Program("flock", "util-linux", "locks", "flock l echo locked", "locked"),
    Program("ps", "procps", "lists its own processes", "sleep 3 & ps -e | grep -c sleep", "[1-9]"),
    Program("nproc", "coreutils", "processors and memory", "nproc; free -m | grep Mem", "[0-9]+\\s+Mem"),
    Program("dbus-send", "dbus-bin", "its session bus answers", "dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.ListNames", "org.freedesktop.DBus", of_record="a box without a record has no session bus"),
    Program("gdbus", "libglib2.0-bin", "its session bus answers", "gdbus call --session -d org.freedesktop.DBus -o / -m org.freedesktop.DBus.GetId", "\\('[0-9a-f]{32}'", of_record="a box without a record has no session bus"),
    Program("man", "man-db", "shows a page", "man -P cat ls 2>/dev/null | head -3; man -P cat ls | grep -c directory", "[1-9]"),
    # -- documents, pictures, sound ------------------------------------------------------
    Program("vim", "vim", "edits a file", "printf 'a\\n' > f; vim -es -c '%s/a/edited/' -c wq f; cat f", "edited"),
    Program("ffmpeg", "ffmpeg", "encodes a film with sound", "ffmpeg -v error -f lavfi -i testsrc=d=1:s=64x48 -f lavfi -i sine=d=1 -shortest a.mkv && ffprobe -v error -show_entries format=duration -of csv a.mkv", "format,1"),
    Program("pdftotext", "poppler-utils", "reads a PDF", "printf 'hello paper\\n' > a.txt; libreoffice --headless --convert-to pdf a.txt >/dev/null 2>&1; pdftotext a.pdf -", "hello paper", needs=("pdftotext", "libreoffice")),
    Program("libreoffice", "libreoffice-writer", "converts a document", "printf 'hello paper\\n' > a.txt; libreoffice --headless --convert-to odt a.txt 2>&1 | tail -1; ls a.odt", "a.odt"),
    Program("pactl", "pulseaudio-utils", "finds the sound server", "pactl info", "Server Name"),
    Program("paplay", "pulseaudio-utils", "plays a tone to its end", _python(_TONE) + "; paplay t.wav && echo played", "played", needs=("paplay", "python3")),
    Program("sox", "sox", "makes a tone", "sox -n t.wav synth 0.5 sine 440 && sox t.wav -n stat 2>&1", "Length.*0.5"),
    Program("wayland-info", "wayland-utils", "lists the compositor's protocols", "wayland-info", "xdg_wm_base", short=True),
    # -- windows --------------------------------------------------------------------------
    Program("foot", "foot", "a terminal", "exec foot -T my-foot sleep 100", title="my-foot", short=True),
    Program("weston-terminal", "weston", "a terminal", "SHELL=/bin/sh exec weston-terminal", title="Terminal"),
    Program("gtk3-demo", "gtk-3-examples", "GTK 3", "exec gtk3-demo", title="Application Class"),
    Program("gtk4-demo", "gtk-4-examples", "GTK 4", "exec gtk4-demo", title="GTK"),
    Program("mpv", "mpv", "its player window", "exec mpv --player-operation-mode=pseudo-gui", title="mpv"),
    Program("firefox-esr", "firefox-esr", "its browser window", "exec firefox-esr", title="Mozilla Firefox"),
    Program("thunderbird", "thunderbird", "its mail window", "exec thunderbird", title="Thunderbird"),
    Program("LibreOffice", "libreoffice-writer", "its writer window", "exec libreoffice --writer --nologo", title="LibreOffice", needs=("libreoffice",)),
    Program("thunar", "thunar", "a file manager", "exec thunar", title="hunar"),
    Program("chromium", "chromium", "its browser window", "exec chromium --ozone-platform=wayland --no-first-run", title="Chromium", setting="user_namespaces = true"),
)  # fmt: skip
