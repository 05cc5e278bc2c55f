// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package meter

import (
	"errors"
	"time"
)

// errLinux is what every look at another process ends with elsewhere.
var errLinux = errors.New("other processes are measured on Linux alone")

// CPU is the time that a process has used.
func CPU(int) (time.Duration, error) { return 0, errLinux }

// Resident is the memory of a process in bytes.
func Resident(int) (float64, error) { return 0, errLinux }

// Peak is the most that was ever resident.
func Peak(int) (float64, error) { return 0, errLinux }

// Monotonic is a clock of this process alone.
func Monotonic() time.Duration { return time.Since(start) }

var start = time.Now()

// Kernel is the version of Linux.
func Kernel() string { return "none" }

// Load is the load average of the last minute.
func Load() float64 { return 0 }

// Files is how many files a process may open.
func Files() int { return 0 }
