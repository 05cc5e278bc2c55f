// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

const root = "../.."

// build builds what krew installs on this machine, and for another one.
func build(t *testing.T, more ...string) (out string) {
	t.Helper()
	// Go tests this anew only if a file changed that was read here.
	err := filepath.WalkDir(filepath.Join(root, "cmd", "kubectl-chatrun"), func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	out = t.TempDir()
	args := append([]string{
		"-root", root, "-out", out, "-version", "v0.1.0", "-url", "https://releases.example/v0.1.0",
		"-platforms", runtime.GOOS + "/" + runtime.GOARCH + ",windows/amd64",
	}, more...)
	if err := run(t.Context(), args); err != nil {
		t.Fatal(err)
	}
	return out
}

// krew runs one of its programs.
func krew(t *testing.T, home, program string, args ...string) (string, error) {
	t.Helper()
	tools, err := filepath.Abs(filepath.Join(root, "hack", "krewtools", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"tool", "-modfile=" + tools, program}, args...)...)
	cmd.Dir, cmd.Env = root, append(os.Environ(), "KREW_ROOT="+home, "KREW_NO_UPGRADE_CHECK=1")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestKrewInstallsIt: krew's own validation takes the manifest, and krew installs what
// it names, which runs.
func TestKrewInstallsIt(t *testing.T) {
	out, home := build(t), t.TempDir()
	manifest := filepath.Join(out, "chatrun.yaml")
	if said, err := krew(t, home, "validate-krew-manifest", "-manifest", manifest, "-skip-install"); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	here := filepath.Join(out, "kubectl-chatrun_v0.1.0_"+runtime.GOOS+"_"+runtime.GOARCH+".tar.gz")
	if said, err := krew(t, home, "krew", "install", "--manifest="+manifest, "--archive="+here); err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	said, err := exec.CommandContext(t.Context(), filepath.Join(home, "bin", "kubectl-chatrun"), "version").CombinedOutput()
	if err != nil || strings.TrimSpace(string(said)) != "v0.1.0" {
		t.Errorf("%v: %s", err, said)
	}
}

// TestKrewRefuses: what is wrong with a manifest is found.
func TestKrewRefuses(t *testing.T) {
	out, home := build(t), t.TempDir()
	manifest := filepath.Join(out, "chatrun.yaml")
	raw, err := os.ReadFile(manifest)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"no sum":        {"sha256: ", "sha512: "},
		"no such arch":  {"arch: amd64", "arch: vax"},
		"no such field": {"bin: kubectl-chatrun", "binary: kubectl-chatrun"},
		"no version":    {"version: v0.1.0", "version: newest"},
	} {
		changed := strings.ReplaceAll(string(raw), change[0], change[1])
		if changed == string(raw) {
			t.Fatalf("%s: %q is not there", name, change[0])
		}
		if err := os.WriteFile(manifest, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
		if said, err := krew(t, home, "validate-krew-manifest", "-manifest", manifest, "-skip-install"); err == nil {
			t.Errorf("%s is taken: %s", name, said)
		}
	}
	other := filepath.Join(out, "kubectl-chatrun_v0.1.0_windows_amd64.zip")
	if err := os.WriteFile(manifest, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	if said, err := krew(t, home, "krew", "install", "--manifest="+manifest, "--archive="+other); err == nil || !strings.Contains(said, "checksum") {
		t.Errorf("another archive is installed: %v\n%s", err, said)
	}
}

// TestSameBytes: whatever a builder has set, and wherever it is.
func TestSameBytes(t *testing.T) {
	first := build(t)
	saved := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(saved, []byte("GOFLAGS=-gcflags=all=-l\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOENV", saved)
	t.Setenv("GOAMD64", "v3")
	second := build(t)
	files, err := os.ReadDir(first)
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		a, err := os.ReadFile(filepath.Join(first, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(second, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if string(a) != string(b) {
			t.Errorf("%s differs", f.Name())
		}
	}
}

// TestBadArguments: said before anything is built.
func TestBadArguments(t *testing.T) {
	for want, args := range map[string][]string{
		"-version": {"-version", "dev", "-url", "https://x"},
		"-url":     {"-version", "v0.1.0"},
		"linux":    {"-version", "v0.1.0", "-url", "https://x", "-platforms", "linux", "-out", t.TempDir()},
	} {
		if err := run(t.Context(), args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", args, err)
		}
	}
}
