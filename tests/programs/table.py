"""Programs as people have them, each with what it must do: here and in a sandbox alike.

A row's ``script`` is run by sh in an empty home, directly and then inside; what it prints
has ``says``.  A row with ``title`` shows a window instead, whose title has it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Program:
    """One program: ``package`` is Debian's, ``does`` what the page says of it.

    ``package`` may name several.  ``setting``: a line of ``[launch]`` that it needs;
    ``of_record``: why it needs a record.  Without a record such a program does not do it
    in a box, and the page says so.  ``but``: by place, why it does not do it there, and
    what to set.  ``x11``: it knows X11 only, and is run with our bridge.
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
    x11: bool = False
    but: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """Return the programs of the row that this machine lacks."""
        wanted = self.needs or (self.name,)
        return [word for word in wanted if shutil.which(word) is None]

    @property
    def reasons(self) -> dict[str, str]:
        """Return by place why it is not run there."""
        wants = self.of_record or (
            self.setting and f"needs `{self.setting}` of a record"
        )
        return {**({"box": wants} if wants else {}), **self.but}

    def said(self, output: str) -> bool:
        """Return whether the output shows that the program has done it."""
        return re.search(self.says, output, re.MULTILINE) is not None


_FORKS = (
    "from multiprocessing import Pool, Lock\nLock()\n"
    "def f(n): return n*n\n"
    "if __name__ == '__main__':\n    print(sum(Pool(2).map(f, range(10))))\n"
)
_TONE = "import math,struct,wave\nw=wave.open('t.wav','wb');w.setnchannels(1);w.setsampwidth(2);w.setframerate(8000)\nw.writeframes(b''.join(struct.pack('<h',int(9000*math.sin(n/5))) for n in range(4000)));w.close()\n"
_SERVE = "mkdir s; echo 'hello there' > s/page; python3 -u -m http.server -b 127.0.0.1 -d s 0 >log 2>&1 & until grep -q port log 2>/dev/null; do sleep 0.1; done; P=$(sed -n 's/.*port \\([0-9]*\\).*/\\1/p' log | head -1); "
_PAGE = "mkdir s; echo '<title>our page</title><p>seen' > s/page.html; python3 -u -m http.server -b 127.0.0.1 -d s 0 >log 2>&1 & until grep -q port log 2>/dev/null; do sleep 0.1; done; P=$(sed -n 's/.*port \\([0-9]*\\).*/\\1/p' log | head -1); "
_PDF = "printf '%%PDF-1.4\\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\\n3 0 obj<</Type/Page/MediaBox[0 0 200 200]/Parent 2 0 R>>endobj\\ntrailer<</Root 1 0 R>>\\n' > paper.pdf; "
_PNG = "echo iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC | base64 -d > dot.png; "
_SVG = 'echo \'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30"><rect width="9" height="9"/></svg>\' > shape.svg; '
_SLIDES = 'echo \'<office:document xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" xmlns:draw="urn:oasis:names:tc:opendocument:xmlns:drawing:1.0" office:mimetype="application/vnd.oasis.opendocument.presentation" office:version="1.2"><office:body><office:presentation><draw:page/></office:presentation></office:body></office:document>\' > slides.fodp; '
_NOTE = "echo text > note.txt; "
_REFUSES = {
    "podman": "it refuses root, as whom (without capabilities) a container runs it; a box"
}
_CHANGES = {
    "podman": "as root it changes its user id, for which a container has no capability; a box"
}
_NO_BUS = {"podman": "a container has no session bus: `dbus-run-session -- PROGRAM`"}
_WEBKIT = {
    "persistent": "with `user_namespaces = true`, and as WebKit's sandbox finds the socket by a name only: `ln -s $WAYLAND_DISPLAY $XDG_RUNTIME_DIR/wayland-0; WAYLAND_DISPLAY=wayland-0 epiphany-browser`",
    "podman": "its sandbox makes namespaces, which a container may not; a box",
}


def _python(code: str, *, exec_: str = "") -> str:
    quoted = code.replace("'", "'\\''")
    return f"printf '%s' '{quoted}' > x.py; {exec_}python3 x.py"


PROGRAMS = (
    # -- languages ---------------------------------------------------------------------
    Program("node", "nodejs", "a worker thread answers", """node -e 'const {Worker}=require("worker_threads");new Worker("require(\\"worker_threads\\").parentPort.postMessage(7)",{eval:true}).on("message",m=>console.log("got",m))'""", "got 7", short=True),
    Program("npm", "npm", "installs a pure package and runs it", """mkdir a b; cd a; printf '{"name":"aa","version":"1.0.0","main":"i.js"}' > package.json; echo 'module.exports=42' > i.js; npm pack --silent >/dev/null; cd ../b; npm init -y >/dev/null; npm install --offline --silent ../a/aa-1.0.0.tgz; node -e 'console.log("is", require("aa"))'""", "is 42"),
    Program("python3", "python3", "multiprocessing with locks and a pool", _python(_FORKS), "^285", short=True),
    Program("python3 -m venv", "python3-venv python3-pip", "an environment with its pip", "python3 -m venv v && v/bin/pip --version && v/bin/python -c 'import sys; print(sys.prefix)'", "/v$", needs=("python3", "pip3")),
    Program("asyncio", "python3", "a server, a client and a child process", _python("import asyncio\nasync def main():\n async def h(r,w):\n  w.write(await r.readline()); await w.drain(); w.close()\n s=await asyncio.start_server(h,'localhost',0)\n r,w=await asyncio.open_connection('localhost',s.sockets[0].getsockname()[1])\n w.write(b'echoed\\n'); print((await r.readline()).decode())\n p=await asyncio.create_subprocess_exec('true'); print('child', await p.wait())\nasyncio.run(main())\n"), "echoed\\s+child 0", short=True, needs=("python3",)),
    Program("shared memory", "python3", "POSIX shared memory between two processes", _python("from multiprocessing import shared_memory, Process\ndef f(n):\n m=shared_memory.SharedMemory(n); m.buf[0]=9; m.close()\nif __name__=='__main__':\n m=shared_memory.SharedMemory(create=True,size=4096); p=Process(target=f,args=(m.name,)); p.start(); p.join(); print('shared', m.buf[0]); m.close(); m.unlink()\n"), "shared 9", short=True, needs=("python3",)),
    Program("java", "default-jdk-headless", "compiles and runs a class with a thread", "printf 'class A{public static void main(String[] a)throws Exception{Thread t=new Thread(()->System.out.println(\"java \"+6*7));t.start();t.join();}}' > A.java; java A.java", "java 42"),
    Program("keytool", "default-jre-headless", "Java's certificate store has entries", "keytool -list -cacerts -storepass changeit 2>&1 | grep -c trustedCert", "[1-9][0-9]"),
    Program("rustc", "rustc gcc libc6-dev", "compiles and runs", "echo 'fn main(){ println!(\"rust {}\", 6*7) }' > a.rs; rustc a.rs && ./a", "rust 42"),
    Program("cargo", "cargo rustc gcc", "makes and runs a project without a network", "cargo init --vcs none --name a p >/dev/null 2>&1; cd p; cargo run --offline 2>/dev/null", "Hello, world"),
    Program("gcc", "gcc libc6-dev", "compiles, links with the mathematics library and runs", "printf '#include <math.h>\\n#include <stdio.h>\\nint main(int c,char**v){printf(\"%%.3f\\\\n\",sqrt(c+1.0));}' > a.c; gcc -O2 a.c -lm -o a && ./a", "1.414", short=True),
    Program("make", "make", "builds in parallel", "printf 'all: x y\\n\\t@echo both\\nx y:\\n\\t@sleep 0.1; echo $@\\n' > Makefile; make -j4", "both"),
    Program("cmake", "cmake ninja-build gcc", "configures and builds with ninja", "echo 'int main(){return 0;}' > a.c; printf 'cmake_minimum_required(VERSION 3.10)\\nproject(p C)\\nadd_executable(a a.c)\\n' > CMakeLists.txt; cmake -G Ninja -B o . >/dev/null && ninja -C o && o/a && echo built", "built", needs=("cmake", "ninja", "gcc")),
    Program("perl", "perl netbase", "forks and reads a pipe", "perl -e 'open(P,\"-|\",\"echo child\"); print \"from \",<P>; print sprintf(\"%s\\n\", (getservbyname(\"https\",\"tcp\"))[2]);'", "from child\\s+443", short=True),
    Program("tclsh", "tcl", "an event loop with a timer", "echo 'after 50 {puts tick; exit}; vwait forever' > a.tcl; tclsh a.tcl", "tick"),
    Program("awk", "mawk", "counts", "seq 10 | awk '{s+=$1} END {print s}'", "^55"),
    Program("bc", "bc", "many digits", "echo 'scale=20; 4*a(1)' | bc -l", "3.14159265358979"),
    Program("jq", "jq", "a query", "echo '{\"a\":[1,2]}' | jq '.a|add'", "^3"),
    Program("valgrind", "valgrind", "finds no leak in a program", "valgrind --error-exitcode=9 true 2>&1 | tail -1; echo done", "0 errors"),
    Program("gdb", "gdb gcc libc6-dev", "breaks at main and continues", "printf 'int main(){return 0;}' > a.c; gcc -g a.c -o a; gdb -batch -ex 'break main' -ex run -ex cont ./a 2>&1", "exited normally", needs=("gdb", "gcc")),
    Program("strace", "strace", "follows a program", "strace -e trace=execve true 2>&1", "execve.*= 0"),
    Program("gccgo", "gccgo-12", "compiles Go, and a goroutine answers", "printf 'package main\nimport \"fmt\"\nfunc main(){c:=make(chan int);go func(){c<-42}();fmt.Println(\"go\",<-c)}' > a.go; $(ls /usr/bin/gccgo-1? | tail -1) a.go -o a && ./a", "go 42", needs=("gccgo-12",)),
    Program("ruby", "ruby", "a thread and a socket answer", "ruby -rsocket -e 's=TCPServer.new(\"127.0.0.1\",0); Thread.new{c=s.accept; c.puts \"from ruby\"; c.close}; puts TCPSocket.new(\"127.0.0.1\",s.addr[1]).read'", "from ruby"),
    Program("php -S", "php-cli curl", "its web server runs a script", "echo '<?php echo \"sum \", 40+2; ' > i.php; php -S 127.0.0.1:18081 >l 2>&1 & N=$!; for i in $(seq 50); do curl -sf http://127.0.0.1:18081/i.php && break; sleep 0.1; done; kill $N", "sum 42", needs=("php", "curl")),
    Program("lua", "lua5.4", "a coroutine", "lua5.4 -e 'local c=coroutine.wrap(function() coroutine.yield(42) end) print(\"lua\", c())'", "lua\\s+42", needs=("lua5.4",)),
    # -- data and the network of the box itself ----------------------------------------
    Program("sqlite3", "sqlite3", "a database in WAL mode", "sqlite3 a.db 'pragma journal_mode=wal; create table t(x); insert into t values(41); select x+1 from t'", "42", short=True),
    Program("postgres", "postgresql-15 postgresql-client-15", "a cluster of its own, a table and a query", "export PATH=$PATH:$(ls -d /usr/lib/postgresql/*/bin | tail -1); initdb -D d -A trust >/dev/null && pg_ctl -D d -o \"-k $PWD -h ''\" -l l -w start >/dev/null; psql -h \"$PWD\" postgres -Atc 'create table t(x int); insert into t values(41); select x+1 from t'; pg_ctl -D d -m fast stop >/dev/null", "^42|\\n42", needs=("psql",), but=_REFUSES),
    Program("nginx", "nginx-light curl", "serves a page", "printf 'daemon off; pid p; error_log e; events{} http{access_log off; client_body_temp_path b; proxy_temp_path b1; fastcgi_temp_path b2; uwsgi_temp_path b3; scgi_temp_path b4; server{listen 127.0.0.1:18080; root '$PWD'/w;}}' > n.conf; mkdir w; echo served > w/i; /usr/sbin/nginx -p $PWD -c n.conf 2>/dev/null & N=$!; for i in $(seq 50); do curl -sf http://127.0.0.1:18080/i && break; sleep 0.1; done; kill $N", "served", needs=("nginx", "curl"), but=_CHANGES),
    Program("curl", "curl python3", "loads a page of a server", _SERVE + "curl -s http://localhost:$P/page; kill $!", "hello there", short=True),
    Program("wget", "wget python3", "loads a page of a server", _SERVE + "wget -qO- http://127.0.0.1:$P/page; kill $!", "hello there"),
    Program("CA store", "ca-certificates python3", "OpenSSL has the machine's certificates", _python("import ssl\nprint('certificates', len(ssl.create_default_context().get_ca_certs()) > 50)\n"), "certificates True", short=True, needs=("python3",)),
    Program("openssl", "openssl curl", "a server and a client by TLS", "openssl req -x509 -newkey rsa:2048 -nodes -keyout k -out c -days 2 -subj /CN=localhost 2>/dev/null; openssl s_server -quiet -key k -cert c -accept 127.0.0.1:18443 -www >/dev/null 2>&1 & S=$!; for i in $(seq 50); do curl -s --cacert c https://localhost:18443/ | grep -m1 -o 's_server' && break; sleep 0.1; done; kill $S", "s_server", needs=("openssl", "curl")),
    Program("git", "git", "commits, clones and merges", "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b; git init -q -b main r; cd r; echo 1 > f; git add f; git commit -qm one; cd ..; git clone -q r c; git -C c log --oneline", "one", short=True),
    Program("git over https", "git openssl python3", "clones from a server by TLS", "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b; git init -q -b main r; git -C r commit -q --allow-empty -m first; git -C r update-server-info; openssl req -x509 -newkey rsa:2048 -nodes -keyout k -out c -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost 2>/dev/null; " + _python("import http.server as h, ssl\ns=h.ThreadingHTTPServer(('127.0.0.1',0),h.SimpleHTTPRequestHandler); c=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain('c','k'); s.socket=c.wrap_socket(s.socket,server_side=True)\nprint(s.server_port,flush=True); s.serve_forever()\n") + " >port 2>/dev/null & until [ -s port ]; do sleep 0.1; done; GIT_SSL_CAINFO=c git clone -q https://localhost:$(cat port)/r/.git c2; git -C c2 log --oneline; kill $!", "first", needs=("git", "openssl", "python3")),
    Program("sftp", "openssh-server openssh-client", "takes a file from an ssh server of its own", "chmod 700 .; echo by sftp > f; ssh-keygen -q -t ed25519 -N '' -f h; ssh-keygen -q -t ed25519 -N '' -f k; cp k.pub a; printf \"HostKey $PWD/h\nAuthorizedKeysFile $PWD/a\nPidFile none\nStrictModes no\nUsePAM no\nForceCommand internal-sftp\nSubsystem sftp internal-sftp\n\" > c; sftp -q -i k -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ProxyCommand=\"/usr/sbin/sshd -i -f $PWD/c\" \"$(id -un)@here:$PWD/f\" got 2>&1; cat got", "^by sftp", needs=("sftp", "sshd"), but=_CHANGES),
    Program("aria2c", "aria2 python3", "loads a page in parts", _SERVE + "aria2c -q -x4 -o got http://127.0.0.1:$P/page; cat got; kill $!", "hello there"),
    Program("rsync", "rsync", "copies a tree", "mkdir -p a/b; echo x > a/b/c; rsync -a a/ z/ && cat z/b/c", "^x"),
    Program("gpg", "gnupg", "makes a key, signs and verifies", "mkdir -m 700 g; export GNUPGHOME=$PWD/g; gpg --batch --quiet --passphrase '' --quick-gen-key me default default 0 2>/dev/null; echo t > t; gpg --batch -q -s t 2>/dev/null; gpg --verify t.gpg 2>&1; gpgconf --kill all", "Good signature"),
    Program("ssh-agent", "openssh-client", "holds a key", "ssh-keygen -q -t ed25519 -N '' -f k -C mykey; eval $(ssh-agent) >/dev/null; ssh-add -q k; ssh-add -l; ssh-agent -k >/dev/null", "mykey", needs=("ssh-agent", "ssh-add", "ssh-keygen")),
    Program("tmux", "tmux", "a session with a program", "SHELL=/bin/sh tmux -S $PWD/t new -d 'echo inside > o; sleep 5'; for i in $(seq 50); do [ -s o ] && break; sleep 0.1; done; cat o; tmux -S $PWD/t kill-server", "inside"),
    Program("tar", "tar xz-utils", "packs with xz and unpacks", "mkdir a; echo x > a/f; tar cJf a.tar.xz a && rm -r a && tar xf a.tar.xz && cat a/f", "^x", needs=("tar", "xz")),
    Program("zip", "zip python3", "packs", "echo x > f; zip -q a.zip f && python3 -m zipfile -l a.zip", "f ", needs=("zip", "python3")),
    # -- what a program asks the system -------------------------------------------------
    Program("getent", "libc-bin hostname netbase", "services, protocols, users and its own host name", "getent services https; getent protocols tcp; getent passwd $(id -u); getent hosts $(hostname) && echo named", "https[^$]*tcp[^$]*named", short=True),
    Program("locale", "libc-bin", "has UTF-8", "LC_ALL=C.UTF-8 locale charmap", "UTF-8"),
    Program("date", "tzdata", "knows time zones", "TZ=Europe/Paris date -d 2026-07-01T12:00Z +%H%Z", "14CEST"),
    Program("fc-match", "fontconfig fonts-dejavu-core", "finds a font", "fc-match sans", "\\.(ttf|otf|pfb|pcf)", short=True),
    Program("xdg-mime", "shared-mime-info python3", "knows the type of a file", "echo '%PDF-1.4' > a.pdf; python3 -c \"import mimetypes; print(mimetypes.guess_type('a.pdf')[0])\"; grep -c . /usr/share/mime/globs2", "application/pdf\\s+[0-9]{3}", needs=("python3",)),
    Program("tput", "ncurses-bin", "knows terminals", "TERM=xterm-256color tput colors", "256"),
    Program("mktemp", "coreutils", "temporary files and a FIFO", "d=$(mktemp -d); mkfifo $d/f; (echo through > $d/f &) ; cat $d/f", "through"),
    Program("flock", "util-linux", "locks", "flock l echo locked", "locked"),
    Program("ps", "procps", "lists its own processes", "ps -e | grep -c ' ps$'", "[1-9]"),
    Program("nproc", "coreutils", "processors and memory", "nproc; free -m | grep Mem", "[0-9]+\\s+Mem"),
    Program("dbus-send", "dbus-bin dbus-daemon", "its session bus answers", "dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.ListNames", "org.freedesktop.DBus", of_record="a box without a record has no session bus", but=_NO_BUS),
    Program("gdbus", "libglib2.0-bin", "its session bus answers", "gdbus call --session -d org.freedesktop.DBus -o / -m org.freedesktop.DBus.GetId", "\\('[0-9a-f]{32}'", of_record="a box without a record has no session bus", but=_NO_BUS),
    Program("man", "man-db", "shows a page", "man -P cat ls 2>/dev/null | head -3; man -P cat ls | grep -c directory", "[1-9]", but={"machine": "[an image](images.md#contents) has no manuals"}),
    # -- documents, pictures, sound ------------------------------------------------------
    Program("vim", "vim", "edits a file", "printf 'a\\n' > f; vim -es -c '%s/a/edited/' -c wq f; cat f", "edited"),
    Program("ffmpeg", "ffmpeg", "encodes a film with sound", "ffmpeg -v error -f lavfi -i testsrc=d=1:s=64x48 -f lavfi -i sine=d=1 -shortest a.mkv && ffprobe -v error -show_entries format=duration -of csv a.mkv", "format,1"),
    Program("pdftotext", "poppler-utils libreoffice-writer", "reads a PDF", "printf 'hello paper\\n' > a.txt; libreoffice --headless --convert-to pdf a.txt >/dev/null 2>&1; pdftotext a.pdf -", "hello paper", needs=("pdftotext", "libreoffice")),
    Program("libreoffice", "libreoffice-writer", "converts a document", "printf 'hello paper\\n' > a.txt; libreoffice --headless --convert-to odt a.txt 2>&1 | tail -1; ls a.odt", "a.odt"),
    Program("libreoffice Calc", "libreoffice-calc", "converts a table, which it computes", "printf '1,=A1+41\n' > a.csv; libreoffice --headless --infilter=CSV:44,34,UTF8,1,,0,false,true,false,false,false,-1,true --convert-to xlsx a.csv >/dev/null 2>&1; libreoffice --headless --convert-to csv --outdir o a.xlsx >/dev/null 2>&1; cat o/a.csv", "1,42", needs=("libreoffice",)),
    Program("libreoffice Impress", "libreoffice-impress libreoffice-draw", "prints a presentation to PDF", _SLIDES + "libreoffice --headless --convert-to pdf slides.fodp >/dev/null 2>&1; head -c 5 slides.pdf", "%PDF-", needs=("libreoffice", "loimpress")),
    Program("gs", "ghostscript", "makes a PDF from PostScript", "printf '%%!PS\\n100 100 moveto 200 200 lineto stroke showpage\\n' > a.ps; ps2pdf a.ps a.pdf; head -c 5 a.pdf", "%PDF-"),
    Program("qpdf", "qpdf", "encrypts a PDF and opens it", _PDF + "qpdf --encrypt in out 128 --use-aes=y -- paper.pdf b.pdf 2>/dev/null; qpdf --password=in --show-npages b.pdf 2>&1", "^1"),
    Program("convert", "imagemagick", "draws, rotates and measures a picture", "convert -size 40x30 xc:red -rotate 90 a.png && identify a.png", "30x40"),
    Program("inkscape", "inkscape", "exports an SVG as PNG", _SVG + "inkscape -w 80 -o a.png shape.svg 2>&1; python3 -c 'print(open(\"a.png\",\"rb\").read(24)[16:24].hex())'", "00000050", needs=("inkscape", "python3")),
    Program("gimp", "gimp", "scales a picture by a script", _PNG + "gimp -i -d -f -b '(let* ((i (car (gimp-file-load 1 \"dot.png\" \"dot.png\")))) (gimp-image-scale i 30 20) (gimp-file-save 1 i (car (gimp-image-flatten i)) \"out.png\" \"out.png\"))' -b '(gimp-quit 0)' >/dev/null 2>&1; python3 -c 'print(open(\"out.png\",\"rb\").read(24)[16:24].hex())'", "0000001e00000014", needs=("gimp", "python3")),
    Program("darktable-cli", "darktable", "develops a picture", "python3 -c \"print('P3 8 8 255 ' + '9 9 9 ' * 64)\" > a.ppm; darktable-cli a.ppm a.jpg --core --configdir c --library :memory: >l 2>&1; head -c 3 a.jpg | od -tx1", "ff d8 ff", needs=("darktable-cli", "python3")),
    Program("emacs --batch", "emacs-gtk", "edits a file", _NOTE + "emacs --batch note.txt --eval '(progn (insert \"more \") (save-buffer))' 2>/dev/null; cat note.txt", "more text", needs=("emacs",)),
    Program("nvim", "neovim", "edits a file", _NOTE + "nvim --headless -c '%s/text/edited/' -c wq note.txt 2>/dev/null; cat note.txt", "edited"),
    Program("keepassxc-cli", "keepassxc", "makes a store and keeps a password", "printf 'pw12345\npw12345\n' | keepassxc-cli db-create -q -p a.kdbx; printf 'pw12345\nsecret\n' | keepassxc-cli add -q -p -u me a.kdbx mine; printf 'pw12345\n' | keepassxc-cli show -q -s a.kdbx mine", "Password: secret"),
    Program("pactl", "pulseaudio-utils", "finds the sound server", "pactl info", "Server Name"),
    Program("paplay", "pulseaudio-utils", "plays a tone to its end", _python(_TONE) + "; paplay t.wav && echo played", "played", needs=("paplay", "python3")),
    Program("aplay", "alsa-utils libasound2-plugins", "plays a tone by ALSA to its end", _python(_TONE) + "; aplay -q t.wav && echo played", "played", short=True, needs=("aplay", "python3"), but={"podman": "the image says nowhere that ALSA plays by PulseAudio: its package `pulseaudio`"}),
    Program("gst-launch", "gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-pulseaudio", "plays a tone by GStreamer to its end", "gst-launch-1.0 -q audiotestsrc num-buffers=20 ! audioconvert ! pulsesink && echo played", "^played", needs=("gst-launch-1.0",)),
    Program("ffplay", "ffmpeg", "plays a film with sound to its end", "ffmpeg -v error -f lavfi -i testsrc=d=1:s=64x48 -f lavfi -i sine=d=1 -shortest a.mkv && SDL_AUDIODRIVER=pulseaudio SDL_VIDEODRIVER=wayland ffplay -v error -autoexit a.mkv && echo played", "played", short=True),
    Program("cvlc", "vlc-bin vlc-plugin-base", "plays a tone to its end", _python(_TONE) + "; cvlc -q --aout pulse --play-and-exit t.wav 2>/dev/null && echo played", "played", needs=("cvlc", "python3"), but=_REFUSES),
    Program("sox", "sox", "makes a tone", "sox -n t.wav synth 0.5 sine 440 && sox t.wav -n stat 2>&1", "Length.*0.5"),
    Program("wayland-info", "wayland-utils", "lists the compositor's protocols", "wayland-info", "xdg_wm_base", short=True),
    # -- windows --------------------------------------------------------------------------
    Program("foot", "foot", "a terminal", "exec foot -T my-foot sleep 100", title="my-foot", short=True),
    Program("weston-terminal", "weston", "a terminal", "SHELL=/bin/sh exec weston-terminal", title="Terminal"),
    Program("kitty", "kitty", "a terminal drawn by OpenGL", "exec kitty -o allow_remote_control=no -T my-kitty sleep 100", title="my-kitty"),
    Program("alacritty", "alacritty", "a terminal drawn by OpenGL", "exec alacritty -T my-alacritty -e sleep 100", title="my-alacritty"),
    Program("gnome-terminal", "gnome-terminal dbus", "a terminal by its server of the session bus", "exec dbus-run-session -- gnome-terminal --wait --title=my-terminal -- sleep 100", title="my-terminal", needs=("gnome-terminal", "dbus-run-session")),
    Program("xfce4-terminal", "xfce4-terminal", "a terminal", "exec xfce4-terminal --disable-server -T my-terminal -x sleep 100", title="my-terminal"),
    Program("konsole", "konsole", "a terminal", "exec konsole -p tabtitle=my-konsole -e sleep 100", title="my-konsole"),
    Program("gtk3-demo", "gtk-3-examples", "GTK 3", "exec gtk3-demo", title="Application Class"),
    Program("gtk4-demo", "gtk-4-examples", "GTK 4", "exec gtk4-demo", title="GTK"),
    Program("PyQt6", "python3-pyqt6 qt6-wayland", "Qt 6", _python("from PyQt6.QtWidgets import *\na=QApplication([]); w=QMainWindow(); w.setWindowTitle('qt six'); w.menuBar().addMenu('File').addAction('Open'); w.show(); a.exec()\n", exec_="exec "), title="qt six", needs=("python3",)),
    Program("featherpad", "featherpad qtwayland5", "Qt 5: opens a file", _NOTE + "exec featherpad note.txt", title="note.txt"),
    Program("gedit", "gedit", "opens a file", _NOTE + "exec gedit note.txt", title="note.txt"),
    Program("mousepad", "mousepad", "opens a file", _NOTE + "exec mousepad note.txt", title="note.txt"),
    Program("geany", "geany", "opens a file", _NOTE + "exec geany note.txt", title="note.txt"),
    Program("kate", "kate", "opens a file", _NOTE + "exec kate note.txt", title="note.txt"),
    Program("neovim-qt", "neovim-qt", "its editor window", _NOTE + "exec nvim-qt --nofork note.txt", title="note.txt|Neovim", needs=("nvim-qt",)),
    Program("evince", "evince", "opens a PDF", _PDF + "exec evince paper.pdf", title="paper.pdf"),
    Program("okular", "okular", "opens a PDF", _PDF + "exec okular paper.pdf", title="paper.pdf"),
    Program("zathura", "zathura zathura-pdf-poppler", "opens a PDF", _PDF + "exec zathura paper.pdf", title="paper.pdf"),
    Program("imv", "imv", "opens a picture", _PNG + "exec imv-wayland dot.png", title="dot.png", needs=("imv-wayland",)),
    Program("Inkscape", "inkscape", "opens an SVG", _SVG + "exec inkscape shape.svg", title="shape.svg", needs=("inkscape",)),
    Program("audacity", "audacity", "its window", "exec audacity", title="Audacity"),
    Program("mpv", "mpv", "its player window", "exec mpv --player-operation-mode=pseudo-gui", title="mpv"),
    Program("gnome-calculator", "gnome-calculator", "its window", "exec gnome-calculator", title="Calculator"),
    Program("galculator", "galculator", "its window", "exec galculator", title="galculator"),
    Program("qalculate", "qalculate-gtk", "its window", "exec qalculate-gtk", title="Qalculate", needs=("qalculate-gtk",)),
    Program("keepassxc", "keepassxc qtwayland5", "its window", "exec keepassxc", title="KeePassXC"),
    Program("thunar", "thunar", "a file manager", "exec thunar", title="hunar"),
    Program("nautilus", "nautilus", "shows a directory", "mkdir folder; exec dbus-run-session -- nautilus folder", title="folder", needs=("nautilus", "dbus-run-session")),
    Program("dolphin", "dolphin", "shows a directory", "mkdir folder; exec dolphin folder", title="folder"),
    Program("dino", "dino-im", "its chat window", "exec dino-im", title="Dino", needs=("dino-im",)),
    Program("thunderbird", "thunderbird", "its mail window", "exec thunderbird", title="Thunderbird"),
    Program("LibreOffice", "libreoffice-writer libreoffice-gtk3", "its writer window", "exec libreoffice --writer --nologo --norestore", title="LibreOffice", needs=("libreoffice",)),
    Program("LibreOffice Calc", "libreoffice-calc libreoffice-gtk3", "opens a table", "printf '1,2\n' > table.csv; libreoffice --headless --convert-to ods table.csv >/dev/null 2>&1; exec libreoffice --nologo --norestore table.ods", title="table.ods", needs=("libreoffice",)),
    Program("firefox-esr", "firefox-esr python3", "loads a page of a server", _PAGE + "exec firefox-esr http://127.0.0.1:$P/page.html", title="our page", needs=("firefox-esr", "python3")),
    Program("falkon", "falkon qtwayland5 python3", "loads a page of a server", _PAGE + "exec falkon http://127.0.0.1:$P/page.html", title="our page", needs=("falkon", "python3"), but=_REFUSES),
    Program("epiphany", "epiphany-browser python3", "loads a page of a server", _PAGE + "exec epiphany-browser http://127.0.0.1:$P/page.html", title="our page", setting="user_namespaces = true", needs=("epiphany-browser", "python3"), but=_WEBKIT),
    Program("chromium", "chromium python3", "loads a page of a server", _PAGE + "exec chromium --ozone-platform=wayland --no-first-run --password-store=basic http://127.0.0.1:$P/page.html", title="our page", setting="user_namespaces = true", needs=("chromium", "python3"), but=_REFUSES),
    # -- windows of programs that know X11 only -------------------------------------------
    Program("xterm", "xterm", "a terminal", "exec xterm -T my-xterm -e sleep 100", title="my-xterm", x11=True, short=True, but=_CHANGES),
    Program("xclock", "x11-apps", "a clock", "exec xclock -title my-clock", title="my-clock", x11=True),
    Program("xcalc", "x11-apps", "a calculator", "exec xcalc -title my-calc", title="my-calc", x11=True),
    Program("xeyes", "x11-apps", "a window with a shape", "exec xeyes -title my-eyes", title="my-eyes", x11=True),
    Program("xmessage", "x11-utils", "a dialog", "exec xmessage -title my-message hello", title="my-message", x11=True),
    Program("tkinter", "python3-tk", "a window with a menu", _python("import tkinter as t\nr=t.Tk(); r.title('tk window'); m=t.Menu(r); m.add_cascade(label='File',menu=t.Menu(m)); r.config(menu=m); t.mainloop()\n", exec_="exec "), title="tk window", x11=True, needs=("python3", "wish")),
    Program("wxPython", "python3-wxgtk4.0", "a window with a menu, once it has found an X server", _python("import wx\na=wx.App(); f=wx.Frame(None,title='wx window'); b=wx.MenuBar(); b.Append(wx.Menu(),'File'); f.SetMenuBar(b); f.Show(); a.MainLoop()\n", exec_="exec "), title="wx window", x11=True, needs=("python3",)),
    Program("vlc", "vlc-plugin-qt qtwayland5", "its player window, once it has found an X server", "exec vlc --no-qt-privacy-ask", title="VLC", x11=True, but=_REFUSES),
    Program("wish", "tk", "a Tcl/Tk window", "echo 'wm title . \"wish window\"; button .b -text press; pack .b' > a.tcl; exec wish a.tcl", title="wish window", x11=True),
    Program("Swing", "openjdk-17-jdk openjdk-17-jre", "a Java window", "printf 'import javax.swing.*;class A{public static void main(String[] a){JFrame f=new JFrame(\"swing window\");f.add(new JButton(\"press\"));f.pack();f.setVisible(true);}}' > A.java; exec java A.java", title="swing window", x11=True, needs=("java",)),
    Program("flpsed", "flpsed", "FLTK: its window", "exec flpsed", title="flpsed", x11=True),
    Program("emacs", "emacs-gtk", "opens a file", _NOTE + "exec emacs -Q -T my-emacs note.txt", title="my-emacs", x11=True),
    Program("GIMP", "gimp", "opens a picture", _PNG + "exec gimp -n -s dot.png", title="GIMP|GNU Image", x11=True, needs=("gimp",)),
    Program("darktable", "darktable", "its window", "exec darktable --library :memory: --disable-opencl", title="darktable", x11=True),
    Program("xpdf", "xpdf", "opens a PDF", _PDF + "exec xpdf paper.pdf", title="paper.pdf", x11=True),
    Program("dillo", "dillo python3", "loads a page of a server", _PAGE + "exec dillo http://127.0.0.1:$P/page.html", title="our page", x11=True, needs=("dillo", "python3")),
    Program("neverball", "neverball", "a game of SDL 2", "exec /usr/games/neverball", title="Neverball", x11=True, needs=("/usr/games/neverball",)),
    Program("hex-a-hop", "hex-a-hop", "a game of SDL", "exec /usr/games/hex-a-hop", title="ex-a-hop", x11=True, needs=("/usr/games/hex-a-hop",)),
    Program("ltris", "ltris", "a game of SDL", "exec \"$(ls /usr/games/ltris* | head -1)\"", title="LTris", x11=True, needs=("/usr/games/ltris",)),
    Program("wine notepad", "wine wine64", "a program of Windows", "WINEDEBUG=-all exec wine notepad", title="Notepad", x11=True, needs=("wine",)),
)  # fmt: skip
