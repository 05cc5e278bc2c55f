// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package main

import (
	"errors"
	"os"
)

// tryLock refuses: the control plane runs on Linux and macOS alone.
func tryLock(*os.File) (bool, error) {
	return false, errors.New("this system is not supported; on Windows use WSL")
}
