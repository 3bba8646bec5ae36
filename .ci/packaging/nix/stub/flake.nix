# Stands for nixpkgs where it cannot be fetched: our flake can be evaluated, nothing built.
{
  outputs = { self }:
    let
      system = "x86_64-linux";
      drv = name: derivation { inherit name system; builder = "/bin/false"; };
      python3 = (drv "python3") // {
        pkgs = builtins.listToAttrs (map (name: { inherit name; value = drv name; }) [
          "trio" "msgspec" "rich" "rich-click" "pywayland" "pyseccomp" "typing-extensions" "cryptography" "pillow"
          "pulsectl" "idna" "jeepney" "tomlkit" "pyudev" "textual" "jinja2" "setuptools" ]) // {
            buildPythonPackage = a: (drv a.pname) // a;
          };
        withPackages = f: builtins.deepSeq (f { }) (drv "python-env");
      };
      lib = rec {
        toLower = s: s;
        makeBinPath = l: builtins.concatStringsSep ":" (map (p: "${p}/bin") l);
        licenses.asl20 = "Apache-2.0";
        mkEnableOption = d: { _type = "option"; default = false; description = d; };
        mkOption = a: a // { _type = "option"; };
        types.package = "package";
        mkMerge = l: { _merge = l; };
        mkIf = c: v: if c then v else { };
      };
      names = [ "bubblewrap" "cpio" "dejavu_fonts" "e2fsprogs" "fontconfig" "genext2fs" "iproute2" "libnotify" "libpulseaudio" "libseccomp" "libxkbcommon" "lowdown" "mmdebstrap" "passt" "procps" "qemu" "qemu-utils" "shadow" "systemd" "xdg-dbus-proxy" "xkeyboard_config" "zstd" ];
      pkgs = builtins.listToAttrs (map (name: { inherit name; value = drv name; }) names) // {
        inherit lib python3 pkgs;
        pkgsStatic.busybox = drv "busybox";
        makeWrapper = drv "makeWrapper";
        stdenv = { mkDerivation = a: (derivation { name = a.pname; inherit system; builder = "/bin/false"; script = a.installPhase; }) // a; hostPlatform.system = system; };
        callPackage = file: extra: let f = import file; in f (builtins.intersectAttrs (builtins.functionArgs f) pkgs // extra);
      };
    in
    { inherit lib; legacyPackages.${system} = pkgs; };
}
