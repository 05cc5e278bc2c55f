// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	managerFile = "bin/manager"
	// managerLog stands in demoDir.
	managerLog = "manager.log"
	// readyTime is how long the manager may take until it is ready.
	readyTime = 30 * time.Second
	// readyPoll is how often it is asked.
	readyPoll = 50 * time.Millisecond
	// shownLog is how much of the log's end is shown after a failure.
	shownLog = 8 << 10
)

// manager is the real manager in a process of its own.
type manager struct {
	streamAddress string

	cmd    *exec.Cmd
	log    *os.File
	exited chan struct{} // closed when the process is gone
	err    error         // how it ended; read it after exited
}

// buildManager builds the manager while other things start. built waits for the
// result, stop ends what is left of it.
func buildManager(ctx context.Context) (built func() error, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-o", managerFile, "./cmd/manager")
	// The compilers end with the command that started them.
	build.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	build.Cancel = func() error { return syscall.Kill(-build.Process.Pid, syscall.SIGKILL) }
	result := make(chan error, 1)
	go func() {
		output, err := build.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("building the manager: %w\n%s", err, output)
		}
		result <- err
	}()
	built = sync.OnceValue(func() error { return <-result })
	return built, func() {
		cancel()
		_ = built()
	}
}

// startManager starts the manager with the rights of config/rbac, and waits
// until it is ready.
func startManager(ctx context.Context, c *cluster, out *screen) (*manager, error) {
	config, err := c.managerConfig(ctx)
	if err != nil {
		return nil, err
	}
	addresses, err := freeAddresses(ctx, 2)
	if err != nil {
		return nil, err
	}
	logFile, err := os.OpenFile(filepath.Join(c.dir, managerLog), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	m := &manager{streamAddress: addresses[0], log: logFile, exited: make(chan struct{})}
	// Not ctx: stop ends it in order, whatever ended ctx.
	m.cmd = exec.Command(managerFile, //nolint:noctx // see above
		"--kubeconfig="+config,
		"--stream-local",
		"--stream-bind-address="+addresses[0],
		"--health-probe-bind-address="+addresses[1],
		"--metrics-bind-address=0",
	)
	m.cmd.Stdout, m.cmd.Stderr = logFile, logFile
	// A process group of its own: Ctrl-C is for us, and we end it in order.
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := m.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the manager: %w", err), logFile.Close())
	}
	go func() {
		m.err = m.cmd.Wait()
		close(m.exited)
	}()
	if err := m.waitReady(ctx, "http://"+addresses[1]+"/readyz"); err != nil {
		m.stop()
		if ctx.Err() == nil {
			m.showLog(os.Stderr)
		}
		return nil, err
	}
	out.say("demo", "the manager runs as %s/%s", managerNamespace, managerAccount)
	return m, nil
}

// waitReady asks until the manager says that it is ready.
func (m *manager) waitReady(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTime, fmt.Errorf("the manager was not ready within %s", readyTime))
	defer cancel()
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-m.exited:
			return fmt.Errorf("the manager ended while it started: %w", m.ended())
		case <-tick.C:
		}
		if ok(ctx, url) {
			return nil
		}
	}
}

// ok reports whether a GET is answered with 200.
func ok(ctx context.Context, url string) bool {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// ended tells how the manager ended; it is read after exited.
func (m *manager) ended() error {
	if m.err == nil {
		return errors.New("exit status 0")
	}
	return m.err
}

// stop ends the manager: first in order, then by force. It may be called again.
func (m *manager) stop() {
	_ = m.cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself
	select {
	case <-m.exited:
	case <-time.After(graceTime):
		_ = m.cmd.Process.Kill()
		<-m.exited
	}
}

// showLog shows the end of the manager's log, which goes with the demo.
func (m *manager) showLog(w io.Writer) {
	info, err := m.log.Stat()
	if err != nil {
		return
	}
	from := max(0, info.Size()-shownLog)
	_, _ = fmt.Fprintln(w, "demo: the end of the manager's log:")
	_, _ = io.Copy(w, io.NewSectionReader(m.log, from, info.Size()-from))
}

// freeAddresses finds addresses on loopback that nobody listens on.
func freeAddresses(ctx context.Context, n int) ([]string, error) {
	var addresses []string
	for range n {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		// Held until all are found, so that they differ.
		defer func() { _ = l.Close() }()
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}
