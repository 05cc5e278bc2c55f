// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// moduleDir holds the go.mod that pins the control plane's version.
const moduleDir = "hack/controlplane"

// answerTime is how long a binary may take to tell its version. It is far more
// than any needs, also on a machine that is busy building.
const answerTime = 30 * time.Second

// binaries are what a control plane consists of, with the arguments that make
// each tell its version.
var binaries = map[string][]string{
	"etcd":           {"--version"},
	"kube-apiserver": {"--version"},
	"kubectl":        {"version", "--client"},
}

// store is the user's store of control planes, one directory a version and
// platform, laid out as setup-envtest lays it out.
type store struct {
	root    string
	version string // as pinned, without the leading v
}

// platform ends the name of an entry that this machine can run.
var platform = "-" + runtime.GOOS + "-" + runtime.GOARCH

// userStore finds the store where setup-envtest keeps its own.
func userStore(version string) (store, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return store{}, err
	}
	return store{root: storeRoot(runtime.GOOS, home, os.Getenv("XDG_DATA_HOME")), version: version}, nil
}

// storeRoot is where setup-envtest unpacks on the given system.
func storeRoot(goos, home, xdgDataHome string) string {
	switch {
	case goos == "darwin":
		return filepath.Join(home, "Library", "Application Support", "io.kubebuilder.envtest", "k8s")
	case xdgDataHome != "":
		return filepath.Join(xdgDataHome, "kubebuilder-envtest", "k8s")
	default:
		return filepath.Join(home, ".local", "share", "kubebuilder-envtest", "k8s")
	}
}

var requirement = regexp.MustCompile(`(?m)^\s*(?:require\s+)?k8s\.io/kubernetes v(\d+\.\d+\.\d+)\s*$`)

// pinnedVersion reads the version of Kubernetes from a go.mod.
func pinnedVersion(mod []byte) (string, error) {
	m := requirement.FindSubmatch(mod)
	if m == nil {
		return "", errors.New("go.mod requires no k8s.io/kubernetes")
	}
	return string(m[1]), nil
}

// minor cuts the patch release off a version: 1.37.2 gives 1.37.
func minor(version string) string { return version[:strings.LastIndexByte(version, '.')] }

// dir is the entry that a build fills.
func (s store) dir() string { return filepath.Join(s.root, s.version+platform) }

// find returns the newest complete entry of the pinned minor release.
func (s store) find(ctx context.Context) (string, bool) {
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return "", false
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	for _, name := range candidates(names, minor(s.version)) {
		dir := filepath.Join(s.root, name)
		if complete(ctx, dir) == nil {
			return dir, true
		}
	}
	return "", false
}

// candidates picks the entries of this platform and a minor release, newest first.
func candidates(names []string, minor string) []string {
	patch := func(name string) (int, bool) {
		rest, ok := strings.CutPrefix(name, minor+".")
		if !ok {
			return 0, false
		}
		rest, ok = strings.CutSuffix(rest, platform)
		n, err := strconv.Atoi(rest)
		return n, ok && err == nil
	}
	found := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, ok := patch(name)
		return !ok
	})
	slices.SortFunc(found, func(a, b string) int {
		x, _ := patch(a)
		y, _ := patch(b)
		return cmp.Compare(y, x)
	})
	return found
}

// complete reports what a directory lacks. Each binary has to run: an
// interrupted download leaves files that look right and are cut short.
func complete(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	results := make(chan error, len(binaries))
	for name, args := range binaries {
		go func() {
			results <- exec.CommandContext(ctx, filepath.Join(dir, name), args...).Run()
		}()
	}
	var all error
	for range binaries {
		all = errors.Join(all, <-results)
	}
	return all
}

// publish makes a filled directory the entry that find sees, at once or not at all.
func publish(from, to string) error {
	// What stands there is not complete, or nobody had filled another.
	if err := removeAll(to); err != nil {
		return err
	}
	if err := os.Chmod(from, 0o755); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// removeAll removes a directory, also the read-only ones that setup-envtest leaves.
func removeAll(dir string) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o755)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}

// scratch is where an entry is filled before it is published. It stands in the
// store, for a rename has to stay on one file system, and there is one only:
// its owner holds the lock, so what stands there was left by a killed process.
func (s store) scratch() (string, error) {
	dir := filepath.Join(s.root, ".chatrun-partial")
	if err := removeAll(dir); err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}

// lockPoll is how often a waiting process looks whether the lock is free.
const lockPoll = time.Second

// lock waits until no other process fills the store.
func (s store) lock(ctx context.Context, progress io.Writer) (unlock func(), err error) {
	if err := os.MkdirAll(s.root, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(s.root, ".chatrun-lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for said := false; ; {
		ok, err := tryLock(f)
		if err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("locking %s: %w", f.Name(), err)
		}
		if ok {
			// Closing gives the lock back, and so does the end of the process.
			return func() { _ = f.Close() }, nil
		}
		if !said {
			said = true
			_, _ = fmt.Fprintln(progress, "control plane: another process is fetching it; waiting for that")
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}
