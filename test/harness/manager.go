// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"chatrun.dev/operator/internal/controller"
	"chatrun.dev/operator/internal/members"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
)

// Manager is the operator in this process.
type Manager struct {
	// Stream is the URL of the stream endpoint.
	Stream string

	cancel context.CancelFunc
	done   chan error
	once   sync.Once
	server *httptest.Server
	caller *provider.Client
}

// StartManager runs the operator in this process, as cmd/manager wires it.
func StartManager(ctx context.Context, cfg *rest.Config, change ...func(*controller.Options)) (*Manager, error) {
	return startManager(ctx, cfg, nil, change...)
}

// StartSharded runs it as one of several, with its Lease in a namespace, and a share
// of the runs in its cache.
func StartSharded(ctx context.Context, cfg *rest.Config, namespace, name string, change ...func(*controller.Options)) (*Manager, error) {
	m := replica(cfg, namespace, name, true, nil)
	sharing := controller.NewSharing(m, ctrl.Log.WithName(name))
	return startManager(ctx, cfg, sharing, append(change, func(o *controller.Options) { o.Members, o.Sharing = m, sharing })...)
}

func startManager(ctx context.Context, cfg *rest.Config, sharing *controller.Sharing, change ...func(*controller.Options)) (*Manager, error) {
	skip := true
	slim := controller.Slim(ctrl.Options{
		Scheme:  Scheme(),
		Metrics: metricsserver.Options{BindAddress: "0"},
		// Suites start several managers in one process.
		Controller: config.Controller{SkipNameValidation: &skip},
	})
	if sharing != nil {
		slim = sharing.Cache(slim)
	}
	mgr, err := ctrl.NewManager(rest.CopyConfig(cfg), slim)
	if err != nil {
		return nil, err
	}
	caller, err := provider.New(provider.Options{UserAgent: "chatrun-operator"})
	if err != nil {
		return nil, err
	}
	hub := streamer.NewHub()
	ctx, cancel := context.WithCancel(ctx)
	o := controller.Options{Caller: caller, Hub: hub, Members: members.Alone("test")}
	for _, c := range change {
		c(&o)
	}
	if _, err := controller.Setup(ctx, mgr, o); err != nil {
		cancel()
		return nil, err
	}
	source, err := controller.NewSource(ctx, mgr, o.Members)
	if err != nil {
		cancel()
		return nil, err
	}
	if sharing != nil {
		source.Sharded()
	}
	m := &Manager{cancel: cancel, done: make(chan error, 1), caller: caller}
	streams := streamer.NewHandler(hub, source, streamer.Anyone)
	if streams.Lister, err = controller.NewRunLists(mgr, nil, sharing != nil); err != nil {
		cancel()
		return nil, err
	}
	m.server = httptest.NewUnstartedServer(streams)
	m.server.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	m.server.Start()
	m.Stream = m.server.URL
	go func() { m.done <- mgr.Start(ctx) }()
	return m, nil
}

// Shares makes a manager in this process one of several, with its Lease in a
// namespace. All of its clocks are ahead of the real one by so much, but for the one
// that nobody can set.
func Shares(cfg *rest.Config, namespace, name string, ahead time.Duration) func(*controller.Options) {
	return func(o *controller.Options) {
		o.Clock = skewed(ahead)
		o.Members = replica(cfg, namespace, name, false, o.Clock)
	}
}

// skewed is the real clock, ahead by so much.
type skewed time.Duration

// Now implements clock.PassiveClock.
func (s skewed) Now() time.Time { return time.Now().Add(time.Duration(s)) }

// Since implements clock.PassiveClock.
func (s skewed) Since(t time.Time) time.Duration { return s.Now().Sub(t) }

func replica(cfg *rest.Config, namespace, name string, sharded bool, now clock.PassiveClock) *members.Members {
	client, err := kubernetes.NewForConfig(rest.CopyConfig(cfg))
	if err != nil {
		panic(err)
	}
	m, err := members.New(members.Options{
		Client: client, Namespace: namespace, Name: name, Duration: ShortLease, Sharded: sharded, Clock: now, Log: ctrl.Log.WithName(name),
	})
	if err != nil {
		panic(err)
	}
	return m
}

// Stop ends it, with the hand-over that a SIGTERM brings. It may be called
// again.
func (m *Manager) Stop() (err error) {
	m.once.Do(func() {
		m.cancel()
		err = <-m.done
		m.server.Close()
		m.caller.Close()
	})
	return err
}

// BuildManager builds the manager's binary into dir, and returns its path.
func BuildManager(ctx context.Context, dir string) (string, error) {
	binary := filepath.Join(dir, "manager")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/manager")
	build.Dir = Root()
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the manager: %w\n%s", err, out)
	}
	return binary, nil
}

// LeaseDuration is that of StartProcess: on a machine that is busy with other suites
// a process may get no time for seconds, and must not be fenced for it. ShortLease is
// for suites that wait for one to lapse.
const (
	LeaseDuration = 15 * time.Second
	ShortLease    = 6 * time.Second
)

// Process is the manager in a process of its own.
type Process struct {
	// Stream is the URL of the stream endpoint.
	Stream string
	// LogFile holds what it logs.
	LogFile string

	cmd  *exec.Cmd
	done chan struct{}
}

// StartProcess runs the manager's binary, with its log in a file. It shares the runs
// with others in whose namespace its Lease is. The next one of its name is taken for
// the next process of one container.
func StartProcess(binary, kubeconfig, leases, worker, logFile string, args ...string) (*Process, error) {
	return startProcess([]string{binary}, kubeconfig, leases, worker, logFile, args...)
}

// StartProcessIn is StartProcess in a network namespace that `ip netns` knows. Stream
// is on the loopback of that one.
func StartProcessIn(space, binary, kubeconfig, leases, worker, logFile string, args ...string) (*Process, error) {
	// It becomes the manager, and is none that stands between us and it.
	return startProcess([]string{"ip", "netns", "exec", space, binary}, kubeconfig, leases, worker, logFile, args...)
}

func startProcess(command []string, kubeconfig, leases, worker, logFile string, args ...string) (*Process, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	stream, err := freeAddress(loopback)
	if err != nil {
		return nil, err
	}
	// The context of a test must not kill it: the tests do, in their own ways.
	cmd := exec.CommandContext(context.Background(), command[0], slices.Concat(command[1:], []string{
		"--kubeconfig", kubeconfig, "--worker-name", worker, "--worker-process", worker,
		"--lease-namespace", leases, "--lease-duration", LeaseDuration.String(), "--drain-grace", "0s", "--stream-local", "--stream-bind-address", stream,
		"--health-probe-bind-address", "0", "--metrics-bind-address", "0",
	}, args)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &Process{Stream: "http://" + stream, LogFile: logFile, cmd: cmd, done: make(chan struct{})}
	go func() {
		// The exit status of a killed process says nothing.
		_ = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID is the process's.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed once the process is gone.
func (p *Process) Done() <-chan struct{} { return p.done }

// Kill sends SIGKILL, and waits for the end.
func (p *Process) Kill() error {
	err := p.cmd.Process.Kill()
	<-p.done
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// Interrupt sends SIGINT, and waits for the end, or kills after a while.
func (p *Process) Interrupt(patience time.Duration) error {
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("the manager did not end within %v", patience), p.Kill())
	}
}

// Terminate sends SIGTERM, as a cluster does, and waits for the end.
func (p *Process) Terminate() error {
	err := p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.done
	return err
}

// Pause stops it where it is, as a machine does that has no time for it.
func (p *Process) Pause() error { return p.cmd.Process.Signal(syscall.SIGSTOP) }

// Continue lets it go on.
func (p *Process) Continue() error { return p.cmd.Process.Signal(syscall.SIGCONT) }

// loopback is where what a suite starts listens, unless it says otherwise.
const loopback = "127.0.0.1"

// FreeAddress finds an address on loopback that nobody listens on.
func FreeAddress() (string, error) { return freeAddress(loopback) }

// freeAddress finds a port of an IP address that nobody listens on.
func freeAddress(ip string) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", net.JoinHostPort(ip, "0"))
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// UntilOpen waits until somebody listens on an address, for so long at most.
func UntilOpen(ctx context.Context, address string, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	every := time.NewTicker(50 * time.Millisecond)
	defer every.Stop()
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err == nil {
			return c.Close()
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return fmt.Errorf("nobody listens on %s: %w", address, err)
		}
	}
}

// StreamURL is where the stream of a run is read.
func StreamURL(base, namespace, name string) string {
	return base + "/v1/namespaces/" + namespace + "/chatruns/" + name + "/stream"
}
