// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Command assets makes sure that this machine has the control plane that tests
// and the demo run against (etcd, kube-apiserver, kubectl) and prints its
// directory. It takes the first that is complete of
//
//  1. the directory that KUBEBUILDER_ASSETS names,
//  2. the user's store, which setup-envtest shares,
//  3. a download by setup-envtest,
//  4. a build from the Go modules that hack/controlplane pins.
//
// The last two fill the store, so they happen once a machine, not once a clone.
// The directory goes to standard output, progress to standard error.
//
// `assets controller-manager` prints the path of kube-controller-manager instead,
// which nobody offers for download and few suites need.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	what := ensure
	if len(os.Args) > 1 && os.Args[1] == "controller-manager" {
		what = ensureControllerManager
	}
	path, err := what(ctx, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "control plane:", err)
		os.Exit(1)
	}
	fmt.Println(path)
}

// ensure returns the directory of a complete control plane. It is run in the
// root of the repository.
func ensure(ctx context.Context, progress io.Writer) (string, error) {
	if dir := os.Getenv("KUBEBUILDER_ASSETS"); dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", err
		}
		if err = complete(ctx, abs); err == nil {
			return abs, nil
		}
		_, _ = fmt.Fprintf(progress, "control plane: KUBEBUILDER_ASSETS is of no use (%v); looking further\n", err)
	}
	s, err := pinnedStore()
	if err != nil {
		return "", err
	}
	if dir, ok := s.find(ctx); ok {
		return dir, nil
	}
	unlock, err := s.lock(ctx, progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	// Whoever held the lock before has most likely filled the store.
	if dir, ok := s.find(ctx); ok {
		return dir, nil
	}
	return s.fill(ctx, progress)
}

// pinnedStore is the user's store of the version that hack/controlplane pins.
func pinnedStore() (store, error) {
	pins, err := os.ReadFile(filepath.Join(moduleDir, "go.mod"))
	if err != nil {
		return store{}, fmt.Errorf("reading the pinned versions (run it in the root of the repository): %w", err)
	}
	version, err := pinnedVersion(pins)
	if err != nil {
		return store{}, err
	}
	return userStore(version)
}
