# The modules and, by .ci/packaging/tree.py, what the other packages have.
{ lib, pkgs, stdenv, python3, makeWrapper, lowdown }:
let
  source = ../../..;
  project = (builtins.fromTOML (builtins.readFile (source + "/pyproject.toml"))).project;
  # pyproject.toml's names, as nixpkgs has them.
  requirements = map
    (line: lib.toLower (builtins.head (builtins.match "([A-Za-z0-9_.-]+).*" line)))
    (project.dependencies ++ project.optional-dependencies.top ++ project.optional-dependencies.report);
  modules = python3.pkgs.buildPythonPackage {
    pname = project.name;
    version = project.version;
    src = source;
    pyproject = true;
    build-system = [ python3.pkgs.setuptools ];
    dependencies = map (name: python3.pkgs.${name}) requirements;
    # Tests need a compositor, QEMU and user namespaces.
    doCheck = false;
  };
  environment = python3.withPackages (_: [ modules ]);
  programs = import ./inputs.nix pkgs;
in
stdenv.mkDerivation {
  pname = project.name;
  version = project.version;
  src = source;
  nativeBuildInputs = [ lowdown makeWrapper python3 ];
  dontBuild = true;
  installPhase = ''
    runHook preInstall
    python3 -B .ci/packaging/tree.py / --prefix "$out" --interpreter ${environment}/bin/python3
    for program in "$out"/lib/vitrail/bin/*; do
      wrapProgram "$program" --suffix PATH : ${lib.makeBinPath programs}
    done
    runHook postInstall
  '';
  passthru = { inherit modules environment; };
  meta = {
    description = "Sandboxed applications on a Wayland desktop, decided by a policy";
    license = lib.licenses.asl20;
    platforms = [ "x86_64-linux" ];
    mainProgram = "brokerctl";
  };
}
