// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
)

// controllerManager is the one part of a control plane that setup-envtest does
// not know: it stands beside what that manages, in a directory that it does not
// look at, and is always built.
const controllerManager = "kube-controller-manager"

// ensureControllerManager returns the path of a kube-controller-manager that
// runs. It is run in the root of the repository.
func ensureControllerManager(ctx context.Context, progress io.Writer) (string, error) {
	s, err := pinnedStore()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(s.root, ".chatrun-"+controllerManager+"-"+s.version+platform)
	path := filepath.Join(dir, controllerManager)
	if startable(ctx, path) == nil {
		return path, nil
	}
	unlock, err := s.lock(ctx, progress)
	if err != nil {
		return "", err
	}
	defer unlock()
	if startable(ctx, path) == nil {
		return path, nil // whoever held the lock before has built it
	}
	scratch, err := s.scratch()
	if err != nil {
		return "", err
	}
	defer func() { _ = removeAll(scratch) }()
	built := filepath.Join(scratch, "build")
	done := step(progress, "building "+controllerManager+" (once)")
	err = s.compile(ctx, filepath.Join(built, controllerManager), "k8s.io/kubernetes/cmd/"+controllerManager, progress)
	done(err)
	if err != nil {
		return "", fmt.Errorf("building %s: %w", controllerManager, err)
	}
	if err := startable(ctx, filepath.Join(built, controllerManager)); err != nil {
		return "", fmt.Errorf("what was built does not run: %w", err)
	}
	return path, publish(built, dir)
}

// startable reports why a kube-controller-manager cannot be started.
func startable(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return exec.CommandContext(ctx, path, "--version").Run()
}
