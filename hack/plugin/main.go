// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Command plugin builds kubectl chatrun for all platforms, an archive each, with krew's
// manifest beside them. The same sources give the same bytes.
//
//	plugin -version v0.1.0 -url https://… -out bin/plugin
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// allPlatforms are those that people have kubectl on.
const allPlatforms = "linux/amd64,linux/arm64,darwin/amd64,darwin/arm64,windows/amd64,windows/arm64"

// semver is what krew takes for a version.
var semver = regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "plugin:", err)
		os.Exit(1)
	}
}

// release is what is built.
type release struct {
	// root is the repository, out where the archives go.
	root, out string
	// version is the plugin's, url where people get its archives.
	version, url string
}

func run(ctx context.Context, args []string) error {
	var r release
	var platforms string
	fs := flag.NewFlagSet("plugin", flag.ContinueOnError)
	fs.StringVar(&r.root, "root", ".", "Root of the repository.")
	fs.StringVar(&r.out, "out", "bin/plugin", "Where the archives and the manifest go.")
	fs.StringVar(&r.version, "version", "", "Version, such as v0.1.0.")
	fs.StringVar(&r.url, "url", "", "Where the archives of this version will be, without their names.")
	fs.StringVar(&platforms, "platforms", allPlatforms, "Which ones.")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if !semver.MatchString(r.version) {
		return fmt.Errorf("-version %q is to be one such as v0.1.0", r.version)
	}
	if r.url == "" {
		return errors.New("-url is missing: krew gets the archives from there")
	}
	if err := os.MkdirAll(r.out, 0o750); err != nil {
		return err
	}
	var archives []archive
	for platform := range strings.SplitSeq(platforms, ",") {
		a, err := r.archive(ctx, platform)
		if err != nil {
			return fmt.Errorf("%s: %w", platform, err)
		}
		archives = append(archives, a)
	}
	manifest, err := r.manifest(archives)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.out, "chatrun.yaml"), manifest, shared)
}

// shared is the mode of what is for others to fetch.
const shared = 0o644

// archive is one that was written.
type archive struct{ system, arch, name, program, sha256 string }

// archive builds for one platform, and packs it.
func (r release) archive(ctx context.Context, platform string) (archive, error) {
	system, arch, ok := strings.Cut(platform, "/")
	if !ok {
		return archive{}, errors.New("no platform: it is one such as linux/amd64")
	}
	a := archive{system: system, arch: arch, program: "kubectl-chatrun"}
	a.name = fmt.Sprintf("kubectl-chatrun_%s_%s_%s.tar.gz", r.version, system, arch)
	pack := packTar
	if system == "windows" {
		a.program += ".exe"
		a.name, pack = strings.TrimSuffix(a.name, ".tar.gz")+".zip", packZip
	}
	program, err := r.compile(ctx, system, arch)
	if err != nil {
		return a, err
	}
	licence, err := os.ReadFile(filepath.Join(r.root, "LICENSE"))
	if err != nil {
		return a, err
	}
	packed, err := pack([]file{{"LICENSE", licence, 0o644}, {a.program, program, 0o755}})
	if err != nil {
		return a, err
	}
	sum := sha256.Sum256(packed)
	a.sha256 = hex.EncodeToString(sum[:])
	return a, os.WriteFile(filepath.Join(r.out, a.name), packed, shared)
}

// compile builds the program. Nothing that the builder has set for other programs counts.
func (r release) compile(ctx context.Context, system, arch string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "kubectl-chatrun-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	out := filepath.Join(dir, "program")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -buildid= -X main.version="+r.version, "-o", out, ".")
	cmd.Dir = filepath.Join(r.root, "cmd", "kubectl-chatrun")
	cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH="+arch, "CGO_ENABLED=0",
		// An empty one would leave it to the file of go env -w.
		"GOFLAGS=-mod=readonly", "GOAMD64=v1", "GOARM64=v8.0", "GOFIPS140=off", "GOEXPERIMENT=")
	if said, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building: %w\n%s", err, said)
	}
	return os.ReadFile(out)
}
