// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestStoreRoot(t *testing.T) {
	for _, c := range []struct{ goos, xdg, want string }{
		{"linux", "", "/home/u/.local/share/kubebuilder-envtest/k8s"},
		{"linux", "/data", "/data/kubebuilder-envtest/k8s"},
		{"darwin", "/data", "/home/u/Library/Application Support/io.kubebuilder.envtest/k8s"},
	} {
		if got := filepath.ToSlash(storeRoot(c.goos, "/home/u", c.xdg)); got != c.want {
			t.Errorf("%s, XDG_DATA_HOME=%q: %s, want %s", c.goos, c.xdg, got, c.want)
		}
	}
}

func TestPinnedVersion(t *testing.T) {
	for _, c := range []struct{ name, mod, want string }{
		{"block", "require (\n\tgo.etcd.io/etcd/server/v3 v3.7.3\n\tk8s.io/kubernetes v1.37.2\n)\n", "1.37.2"},
		{"line", "require k8s.io/kubernetes v1.38.0\n", "1.38.0"},
		{"another module", "require (\n\tk8s.io/kubernetes-extra v1.2.3\n)\n", ""},
		{"empty", "", ""},
	} {
		got, err := pinnedVersion([]byte(c.mod))
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s: %q, %v, want %q", c.name, got, err, c.want)
		}
	}
}

func TestCandidates(t *testing.T) {
	got := candidates([]string{
		"1.37.2" + platform, "1.37.10" + platform, "1.37.0-plan9-mips", "1.36.9" + platform, "1.37.x" + platform,
		"1.370.1" + platform, ".chatrun-partial", "1.37.1" + platform,
	}, "1.37")
	want := []string{"1.37.10" + platform, "1.37.2" + platform, "1.37.1" + platform}
	if !slices.Equal(got, want) {
		t.Errorf("candidates: %q, want %q", got, want)
	}
}

func TestLdflags(t *testing.T) {
	got := store{version: "1.37.2"}.ldflags()
	for _, want := range []string{"gitVersion=v1.37.2", "gitMajor=1 ", "gitMinor=37"} {
		if !strings.Contains(got+" ", want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
}

// entry writes binaries of the given content into a directory.
func entry(t *testing.T, dir, content string, names ...string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

const runs = "#!/bin/sh\nexit 0\n"

func TestAnIncompleteEntryNeverCounts(t *testing.T) {
	s := store{root: t.TempDir(), version: "1.37.2"}
	if dir, ok := s.find(t.Context()); ok {
		t.Errorf("found %s in an empty store", dir)
	}
	entry(t, filepath.Join(s.root, "1.37.1"+platform), runs, "etcd", "kube-apiserver", "kubectl")
	entry(t, filepath.Join(s.root, "1.37.3"+platform), runs, "etcd", "kubectl")
	// Cut short, and a program of another machine: neither runs.
	entry(t, filepath.Join(s.root, "1.37.4"+platform), "\x7fELF", "etcd", "kube-apiserver", "kubectl")

	dir, ok := s.find(t.Context())
	if want := filepath.Join(s.root, "1.37.1"+platform); !ok || dir != want {
		t.Errorf("found %q, want %q", dir, want)
	}
}

func TestPublishReplacesWhatIsIncomplete(t *testing.T) {
	s := store{root: t.TempDir(), version: "1.37.2"}
	entry(t, s.dir(), "broken", "etcd")
	// setup-envtest leaves its entries read-only.
	if err := os.Chmod(s.dir(), 0o555); err != nil {
		t.Fatal(err)
	}
	scratch, err := s.scratch()
	if err != nil {
		t.Fatal(err)
	}
	built := filepath.Join(scratch, "build")
	entry(t, built, runs, "etcd", "kube-apiserver", "kubectl")
	if err := publish(built, s.dir()); err != nil {
		t.Fatal(err)
	}
	if dir, ok := s.find(t.Context()); !ok || dir != s.dir() {
		t.Errorf("found %q, %t, want %q", dir, ok, s.dir())
	}
}

func TestLockIsHeldByOne(t *testing.T) {
	s := store{root: filepath.Join(t.TempDir(), "k8s"), version: "1.37.2"}
	unlock, err := s.lock(t.Context(), &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	impatient := errors.New("impatient")
	cancel(impatient)
	var said bytes.Buffer
	if _, err := s.lock(ctx, &said); !errors.Is(err, impatient) {
		t.Errorf("a second lock: %v, want %v", err, impatient)
	}
	if !strings.Contains(said.String(), "waiting") {
		t.Errorf("a waiting process says %q", said.String())
	}
	unlock()
	unlock, err = s.lock(t.Context(), &bytes.Buffer{})
	if err != nil {
		t.Fatalf("after the lock was given back: %v", err)
	}
	unlock()
}
