// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// demoDir holds what a demo writes, and is removed at its end: the kubeconfig
// for you, the manager's log, and in runDir what belongs to the processes that
// it starts. Nothing else has runDir on its command line, so the reaper knows
// them by it.
const (
	demoDir = ".demo"
	runDir  = "run"
	// tempDir stands in runDir: keys that envtest writes to the directory for
	// temporary files go with everything else, also if the demo is killed.
	tempDir = "tmp"
)

// lockFile says that a demo runs in this clone. It stands outside demoDir, which
// comes and goes.
const lockFile = "bin/demo.lock"

// claimDir makes an empty demoDir that no other demo uses, and starts the
// reaper, which cleans up should this process be killed.
func claimDir() (dir string, release func(), err error) {
	dir, err = filepath.Abs(demoDir)
	if err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(filepath.Dir(lockFile), 0o755); err != nil {
		return "", nil, err
	}
	lock, err := os.OpenFile(lockFile, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", nil, err
	}
	unlock := func() { _ = lock.Close() }
	defer func() {
		if err != nil {
			unlock()
		}
	}()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return "", nil, errors.New("another demo runs in this clone: end it first (Ctrl-C), or use another clone")
		}
		return "", nil, fmt.Errorf("locking %s: %w", lockFile, err)
	}
	if err := os.RemoveAll(dir); err != nil {
		return "", nil, err
	}
	temporary := filepath.Join(dir, runDir, tempDir)
	if err := errors.Join(os.MkdirAll(temporary, 0o700), os.Setenv("TMPDIR", temporary)); err != nil {
		return "", nil, err
	}
	dismiss, err := startReaper(dir)
	if err != nil {
		return "", nil, fmt.Errorf("starting the reaper: %w", err)
	}
	return dir, func() {
		_ = os.RemoveAll(dir) // git ignores what somebody keeps open
		dismiss()
		unlock()
	}, nil
}
