// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// reapCommand makes this program the reaper of the directory that follows.
const reapCommand = "reap"

// farewell is what the demo says to its reaper when it has cleaned up itself.
const farewell = "done"

// The reaper looks more than once: a process that was just being started when
// the demo was killed appears a moment later.
const (
	reapRounds = 5
	reapPause  = 200 * time.Millisecond
)

// startReaper starts a process that outlives this one, and ends what it started
// if this one cannot: when it is killed, or crashes. They hold the ends of a
// pipe, which the kernel closes however the demo ends.
func startReaper(dir string) (dismiss func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, reapCommand, dir) //nolint:noctx // it ends with the pipe
	// A session of its own: no signal of the terminal reaches it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		_, _ = io.WriteString(pipe, farewell)
		_ = pipe.Close()
		_ = cmd.Wait()
	}, nil
}

// reap waits for the demo's end, and cleans up unless it said farewell.
func reap(dir string) {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	word, _ := io.ReadAll(io.LimitReader(os.Stdin, int64(len(farewell))))
	if string(word) == farewell {
		return
	}
	for range reapRounds {
		kill(filepath.Join(dir, runDir))
		<-time.After(reapPause)
	}
	_ = os.RemoveAll(dir)
}

// kill ends the processes that the demo started.
func kill(dir string) {
	for _, pid := range ours(processes(), dir) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone already
	}
}

// process is one line of the process table.
type process struct {
	pid  int
	args string
}

// ours picks the processes that the demo started, by the directory that stands
// on the command line of every one of them.
func ours(all []process, dir string) []int {
	var pids []int
	for _, p := range all {
		if p.pid != os.Getpid() && strings.Contains(p.args, dir+string(filepath.Separator)) {
			pids = append(pids, p.pid)
		}
	}
	return pids
}

// processes reads the process table: from /proc on Linux, where ps may be
// missing, and from ps elsewhere.
func processes() []process {
	if runtime.GOOS != "linux" {
		table, _ := exec.Command("ps", "-A", "-o", "pid=,args=").Output() //nolint:noctx // ps ends by itself
		return parseTable(string(table))
	}
	var all []process
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		args, readErr := os.ReadFile(file)
		if err != nil || readErr != nil {
			continue // it ended meanwhile
		}
		all = append(all, process{pid: pid, args: strings.ReplaceAll(string(args), "\x00", " ")})
	}
	return all
}

// parseTable reads lines of a process's number and its command line.
func parseTable(table string) []process {
	var all []process
	for line := range strings.Lines(table) {
		number, args, _ := strings.Cut(strings.TrimSpace(line), " ")
		if pid, err := strconv.Atoi(number); err == nil {
			all = append(all, process{pid: pid, args: strings.TrimSpace(args)})
		}
	}
	return all
}
