// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package meter

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuClock is the kind of clock that counts what the scheduler gave a process, and
// clockBits what stands before it: the id of the process, inverted.
const (
	cpuClock  = 2
	clockBits = 3
)

// CPU is the time that a process has used with all its threads, user and system. It
// is the scheduler's own count, in nanoseconds: /proc/PID/stat rounds the same to
// ticks of 10 ms, and a cgroup counts a process's children with it.
func CPU(pid int) (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<clockBits|cpuClock), &t); err != nil {
		return 0, fmt.Errorf("reading the CPU time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// Resident is the memory of a process in bytes, all pages that are mapped: what a
// limit on memory counts, kernel sockets left out. PSS would split the pages of a
// binary among the processes that run it, and so make the copier, whose binary runs
// several times, look smaller than a program of its own is.
func Resident(pid int) (float64, error) {
	return kibibytes(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Rss:")
}

// Peak is the most that was ever resident.
func Peak(pid int) (float64, error) {
	return kibibytes(fmt.Sprintf("/proc/%d/status", pid), "VmHWM:")
}

// kibibytes reads a line such as "Rss: 12 kB", in bytes.
func kibibytes(file, field string) (float64, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		if words := strings.Fields(lines.Text()); len(words) == 3 && words[0] == field {
			n, err := strconv.ParseFloat(words[1], 64)
			return n * 1024, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, field)
}

// Monotonic is the clock that all processes of a machine share and nobody sets.
func Monotonic() time.Duration { return start.offset + time.Since(start.at) }

// start ties Go's own clock to the machine's: it is read without a system call.
var start = func() (s struct {
	at     time.Time
	offset time.Duration
}) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(fmt.Sprintf("reading the monotonic clock: %v", err))
	}
	s.at, s.offset = time.Now(), time.Duration(t.Nano())
	return s
}()

// Kernel is the version of Linux.
func Kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "?"
	}
	return unix.ByteSliceToString(u.Release[:])
}

// Load is the load average of the last minute.
func Load() float64 {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	word, _, _ := strings.Cut(string(raw), " ")
	load, _ := strconv.ParseFloat(word, 64)
	return load
}

// Files is how many files a process may open.
func Files() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(limit.Cur)
}
