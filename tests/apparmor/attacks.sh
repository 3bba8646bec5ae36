# As the user ada: the attacks of each role, and programs that are not ours.  Prints a line
# for each; run-trial compares them with expected.tsv.
set -eu
cd
mkdir -p .ssh .config
echo secret > .ssh/id
: >> .bashrc
sleep 600 & victim=$!
for role in vitrail authority viewer worker; do
    aa-exec -p vitrail -- python3 /room/attack.py "$role" "$victim"
done
# Roles that no process of ours enters by itself: bubblewrap and the kernel attach them.
for role in qemu hook box; do
    python3 /room/attack.py "$role" "$victim"
done
kill "$victim"
outcome() { if "$@" 2>/dev/null; then echo succeeded; else echo refused; fi; }
echo "attack shell namespace $(outcome unshare --user true)"
echo "attack shell bubblewrap $(outcome bwrap --unshare-all --ro-bind / / true)"
echo "attack bash-of-ours namespace $(outcome aa-exec -p vitrail -- python3 -c '
import subprocess, sys
sys.exit(subprocess.run(["/usr/bin/bash", "-c", "unshare --user true"]).returncode)')"
