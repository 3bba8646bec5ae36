# A flake of this directory: nix run 'git+file:///PATH/TO/vitrail?dir=.ci/packaging/nix'.
{
  description = "Sandboxed applications on a Wayland desktop, decided by a policy";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      system = "x86_64-linux";
      vitrail = nixpkgs.legacyPackages.${system}.callPackage ./package.nix { };
    in
    {
      packages.${system} = { inherit vitrail; default = vitrail; };
      nixosModules.default = import ./module.nix self;
      checks.${system}.vitrail = vitrail;
    };
}
