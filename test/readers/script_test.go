// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package readers

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// endGrace is what a script has to end what it started, a browser for one.
const endGrace = 10 * time.Second

// reader reads a run to its end, through cut connections.
type reader struct {
	name  string
	start func(t *testing.T, base, run string) *reading
	// early says that it may begin before there is the run.
	early bool
	// tells says that it counts the cuts within a frame.
	tells bool
}

// readers are all that resume.
var readers = []reader{
	{name: "curl", start: curlEvents, early: true},
	{name: "Go", start: goEvents, early: true, tells: true},
	{name: "Node, eventsource 4", start: script("node", "eventsource.mjs", "eventsource4"), early: true},
	{name: "Node, eventsource 5", start: script("node", "eventsource.mjs", "eventsource"), early: true},
	{name: "Node, client of web", start: script("node", "client.mjs"), early: true},
	{name: "Chromium, EventSource", start: script("node", "page.mjs", "EventSource")},
	{name: "Chromium, client of web", start: script("node", "page.mjs", "client")},
}

// ask is what a script is told.
type ask struct {
	BaseURL   string `json:"baseURL"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Token     string `json:"token"`
	Page      string `json:"page"`
	Chromium  string `json:"chromium"`
	KeyHash   string `json:"keyHash"`
}

// script reads with a script of this directory.
func script(program string, args ...string) func(*testing.T, string, string) *reading {
	return func(t *testing.T, base, run string) *reading {
		t.Helper()
		told, err := json.Marshal(ask{base, the.namespace, run, the.token, the.page, the.chromium, the.keyHash})
		if err != nil {
			t.Fatal(err)
		}
		env := []string{"READER_ASK=" + string(told), "NODE_EXTRA_CA_CERTS=" + the.caFile}
		r := newReading()
		begin(t, env, r, r.follow, program, args...)
		return r
	}
}

// curlEvents reads with curl.sh, which leaves it to us to look into the frames.
func curlEvents(t *testing.T, base, run string) *reading {
	t.Helper()
	r := newReading()
	take := func(from io.Reader) error {
		var frames frames
		if err := frames.read(from, r); err != nil {
			return err
		}
		if !frames.done {
			return errors.New("it ended without done")
		}
		return nil
	}
	begin(t, nil, r, take, "./curl.sh", streamURL(base, run, "wait=30s"), "--cacert", the.caFile, "-H", "@"+the.headerFile)
	return r
}

// begin starts a program, and ends it with the test. take gets what it prints;
// its error, or else the program's, is how the reading ended.
func begin(t *testing.T, env []string, r *reading, take func(io.Reader) error, program string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), env...)
	// What it starts itself is of its group, and ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = endGrace
	said := &strings.Builder{}
	cmd.Stderr = said
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		taken := take(out)
		_, _ = io.Copy(io.Discard, out) // Wait is to be called after the last read
		// A script that was served has nothing to say on its way out.
		if err := cmd.Wait(); err != nil {
			taken = errors.Join(taken, fmt.Errorf("%s: %w: %s", program, err, said))
		}
		r.end(taken)
	}()
	t.Cleanup(func() { <-ended })
}
