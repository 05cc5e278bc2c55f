// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package page

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"chatrun.dev/operator/test/harness"
)

const (
	// scenarioTime bounds a scenario: most wait for retries.
	scenarioTime = 3 * time.Minute
	// endGrace is what a scenario has to end its browser.
	endGrace = 10 * time.Second
)

// steps are what a scenario has done outside of the browser, by name.
type steps map[string]func() error

// ask is what a scenario is told.
type ask struct {
	Page      string            `json:"page"`
	Namespace string            `json:"namespace"`
	Tokens    map[string]string `json:"tokens"`
	Steps     string            `json:"steps"`
	Chromium  string            `json:"chromium"`
	KeyHash   string            `json:"keyHash"`
	// Images is where pictures go; empty is nowhere.
	Images string `json:"images"`
}

// browse plays a scenario. The page is behind a wire of its own, which can be cut.
func browse(t *testing.T, scenario, namespace string, tokens map[string]string, does steps) {
	t.Helper()
	w := newWire(t, the.stream)
	does["cut"] = func() error {
		w.cut()
		return nil
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		step, ok := does[r.URL.Path[1:]]
		if !ok {
			http.Error(w, "no such step", http.StatusNotFound)
			return
		}
		if err := step(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	}))
	defer server.Close()
	told := ask{
		Page: "https://" + w.listener.Addr().String() + "/", Namespace: namespace, Tokens: tokens,
		Steps: server.URL, Chromium: the.chromium, KeyHash: the.keyHash,
	}
	if *update {
		told.Images = filepath.Join(harness.Root(), "docs", "images")
	}
	raw, err := json.Marshal(told)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", filepath.Join("scenarios", scenario+".mjs"))
	// The tokens go this way, and never by an argument.
	cmd.Env = append(os.Environ(), "PAGE_ASK="+string(raw))
	// What it starts itself is of its group, and ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = endGrace
	over := time.AfterFunc(scenarioTime, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) })
	defer over.Stop()
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v: %s", scenario, err, said)
	} else {
		t.Logf("%s", said)
	}
}

// wire is a TCP proxy whose connections can be cut.
type wire struct {
	listener net.Listener
	target   string
	serving  sync.WaitGroup

	mu    sync.Mutex
	pairs map[*[2]net.Conn]bool
	ended bool
}

// newWire puts one before an address, until the test ends.
func newWire(t *testing.T, target string) *wire {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: listener, target: target, pairs: map[*[2]net.Conn]bool{}}
	w.serving.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return // closed
			}
			w.serving.Go(func() { w.join(c) })
		}
	})
	t.Cleanup(func() {
		w.mu.Lock()
		w.ended = true
		w.mu.Unlock()
		_ = listener.Close()
		w.cut()
		w.serving.Wait()
	})
	return w
}

// join connects a browser with the server until either ends, or it is cut.
func (w *wire) join(browser net.Conn) {
	defer func() { _ = browser.Close() }()
	server, err := net.DialTimeout("tcp", w.target, patience)
	if err != nil {
		return // the browser sees its connection closed
	}
	defer func() { _ = server.Close() }()
	pair := &[2]net.Conn{browser, server}
	w.mu.Lock()
	if w.ended {
		w.mu.Unlock()
		return
	}
	w.pairs[pair] = true
	w.mu.Unlock()
	var up sync.WaitGroup
	up.Go(func() { pass(server, browser) })
	pass(browser, server)
	up.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pairs, pair)
}

// pass copies until the end of either side, and ends both.
func pass(to, from net.Conn) {
	buffer := make([]byte, 16<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				break
			}
		}
		if err != nil {
			break
		}
	}
	_, _ = to.Close(), from.Close()
}

// cut resets every connection.
func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for pair := range w.pairs {
		if c, ok := pair[0].(*net.TCPConn); ok {
			_ = c.SetLinger(0) // a reset, and no proper end
		}
		_, _ = pair[0].Close(), pair[1].Close()
	}
}

// gate is opened once.
func gate(t *testing.T) (held chan struct{}, open func() error) {
	t.Helper()
	held = make(chan struct{})
	allow := sync.OnceFunc(func() { close(held) })
	t.Cleanup(allow)
	return held, func() error {
		allow()
		return nil
	}
}

// named says which step went wrong.
func named(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
