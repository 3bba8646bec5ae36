#!/bin/sh
# Help, a record, a mistake in it that is named, the manual.
set -eux
brokerctl --version
brokerctl new demo --from demo
brokerctl policy check
sed -i 's/^display = .*/display = "alow"/' .config/vitrail/sandboxes.d/demo.toml
if brokerctl policy check >report 2>&1; then exit 1; fi
grep "did you mean 'allow'" report
