# A module of NixOS: programs.vitrail.enable, services.vitrail-host.enable.
flake: { config, lib, pkgs, ... }:
let
  programs = config.programs.vitrail;
  host = config.services.vitrail-host;
  package = programs.package;
in
{
  options.programs.vitrail = {
    enable = lib.mkEnableOption "Vitrail's programs and the units of a desktop";
    package = lib.mkOption {
      type = lib.types.package;
      default = flake.packages.${pkgs.stdenv.hostPlatform.system}.vitrail;
      description = "The package of Vitrail.";
    };
  };
  options.services.vitrail-host.enable =
    lib.mkEnableOption "the broker of a host without a person";

  config = lib.mkMerge [
    (lib.mkIf (programs.enable || host.enable) {
      environment.systemPackages = [ package ];
      # Units, and the user and the directory of the host's broker, are the package's.
      systemd.packages = [ package ];
      systemd.tmpfiles.packages = [ package ];
    })
    (lib.mkIf programs.enable {
      systemd.user.sockets.vitrail-local.wantedBy = [ "sockets.target" ];
    })
    (lib.mkIf host.enable {
      users.users.vitrail = {
        isSystemUser = true;
        group = "vitrail";
        extraGroups = [ "kvm" ];
        home = "/var/lib/vitrail";
      };
      users.groups.vitrail = { };
      systemd.services.vitrail-host.wantedBy = [ "multi-user.target" ];
    })
  ];
}
