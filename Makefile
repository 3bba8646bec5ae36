# One door for everything.  'make demo' and 'make test' set up all they need.
PY := .venv/bin/python

.PHONY: help setup setup-tests venv demo unit test test-long mutate check lint types imports figures style bench coverage fuzz deb try-deb autopkgtest rpm arch sysext try-packages try-image-based release try-apparmor clean

help:
	@echo "make demo       an application in a micro VM, on your screen; needs sudo once,"
	@echo "                for packages; another one: make demo DEMO='-- weston-terminal'"
	@echo "make unit       the quick tests of pure logic, in a minute; needs no packages"
	@echo "make test       the tests; some of them: make test PYTEST='-k relay -x',"
	@echo "                those that failed: make test PYTEST=--lf"
	@echo "make test-long  soaks, long fuzzing, hundreds of kills"
	@echo "make fuzz       the fuzz targets; one of them: make fuzz FUZZ=waypipe SECONDS=600"
	@echo "make check      lint, types, import direction; needs no packages"
	@echo "make figures    lines of code and words of documentation, beside the recorded ones"
	@echo "make style      names and sentences that CONTRIBUTING.md rules out"
	@echo "make mutate     turn each guard off in turn: some test must fail"
	@echo "make coverage   how many branches of the cores their own tests take"
	@echo "make bench      the benchmarks; one of them: make bench BENCH=relay"
	@echo "make deb        Debian packages in out/; for Debian 13: make deb SUITE=trixie;"
	@echo "                with the source package: make deb SOURCE=1"
	@echo "make try-deb    install these packages into a fresh root, use them, remove them"
	@echo "make try-image-based  the wheel in a root with the shape of Fedora Silverblue"
	@echo "make release    everything of a release, built twice and compared, in out/release-VERSION"
	@echo "make try-apparmor  boot Debian 13 with an enforced AppArmor rule, attack our profiles"
	@echo "make autopkgtest  Debian's tests of an installed package (debian/tests), in a fresh root"
	@echo "make rpm        packages for rpm in out/; also make arch, make sysext (docs/distribution-packages.md)"
	@echo "make try-packages  use these in a root of Fedora's shape: make try-packages FILES=out/*.rpm"
	@echo "make setup      packages and .venv only"

setup:
	@.ci/setup

setup-tests:
	@.ci/setup --tests

venv:
	@.ci/setup --venv

demo: setup
	@.ci/as-user broker.cli.app demo $(DEMO)

unit: venv
	@.ci/test --unit $(PYTEST)

test: setup-tests
	@.ci/test $(PYTEST)

test-long:
	@.ci/setup --tests --long
	@.ci/test --long $(PYTEST)

# Turns each guard off in turn; some test must fail each time.
mutate: setup-tests
	@VITRAIL_MUTATE=1 .ci/test --long -k test_no_guard_can_go_unnoticed

check: venv lint types imports style
	@$(PY) -m tests.kit.ratchets.figures --check
	@$(PY) -m tests.kit.ratchets.subjects

lint:
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types:
	.venv/bin/mypy

imports:
	.venv/bin/lint-imports

# Sizes, beside those of the last commit; WRITE=1 records them, in a commit that says why.
figures: venv
	@$(PY) -m tests.kit.ratchets.figures $(if $(WRITE),--write)

# No commit raises a count; WRITE=1 records what has become less.
style: venv
	@$(PY) -m tests.kit.ratchets.style $(if $(WRITE),--write,--check)

coverage: venv
	@.ci/as-user tests.kit.suite.branches $(CORE)

bench: setup-tests
	@set -e; for one in $(or $(BENCH),relay policy audit wayland waypipe pulse clipboard transfer); do \
		.ci/as-user tests.bench.$$one; done

# Half a minute of each target; a single one for longer: make fuzz FUZZ=waypipe SECONDS=600
fuzz: setup-tests
	@set -e; for one in $(or $(FUZZ),link messages minimal_agent policy port_mux transfer wayland waypipe pulse x11); do \
		.ci/as-user fuzz.$$one --seconds $(or $(SECONDS),30); done

# In a fresh root of that release, so nothing of this machine is in the package.
deb:
	@VITRAIL_SOURCE=$(SOURCE) .ci/deb $(or $(SUITE),bookworm)

# Install it into a fresh root of that release, use it as a new user, remove it.
try-deb:
	@.ci/try-deb $(or $(DEB),$(firstword $(wildcard out/vitrail_*.deb))) $(or $(SUITE),bookworm)

# Install the wheel into a root with the shape of Fedora Silverblue, use it as a new user.
try-image-based:
	@.ci/try-image-based

# Twice, byte by byte equal, with SBOM, hashes and notes; docs/releases.md.
release: venv
	@.ci/release

# The packages of 'make deb SUITE=trixie' in an emulated machine that enforces AppArmor.
try-apparmor:
	@.ci/try-apparmor

# debian/tests, by autopkgtest(1), with the packages of out/.
autopkgtest:
	@.ci/autopkgtest $(or $(SUITE),bookworm)

# In a fresh root of Debian; for another system: make sysext SYSTEM=fedora:42
rpm arch sysext:
	@VITRAIL_SYSTEM=$(SYSTEM) .ci/packaging/build $@ $(or $(SUITE),trixie)

# In a root without apt and dpkg, with Fedora's os-release and a read-only /usr.
try-packages:
	@.ci/packaging/try $(FILES)

clean:
	rm -rf .venv build *.egg-info broker/*/_*.so broker/*/*/_*.so
