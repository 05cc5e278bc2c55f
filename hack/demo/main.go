// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Command demo runs a chat end to end on one machine: a control plane, a fake
// model provider that fails three times before it answers, and the real manager
// under the rights of config/rbac. It shows what `kubectl get chatruns -w`
// prints beside the events of the stream endpoint, checks all of it, and exits
// with 0 only if everything is right.
//
// With OPENAI_API_KEY or ANTHROPIC_API_KEY set it asks that provider instead;
// OPENAI_BASE_URL, ANTHROPIC_BASE_URL and CHATRUN_MODEL are optional.
//
// It is run in the root of the repository by `make demo` and `make dev`, which
// set KUBEBUILDER_ASSETS. What it starts ends with it, however it ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
)

// showTime bounds the demo of the fake provider, which takes some 15 s, and
// realTime that of a real one, which may be slow.
const (
	showTime = 2 * time.Minute
	realTime = 15 * time.Minute
	// signTime is how long the end of a process may come after that of its
	// connections.
	signTime = time.Second
)

// errInterrupted is why everything ends at a signal.
var errInterrupted = errors.New("interrupted")

// errLeft says that something the demo started may still be there.
var errLeft = errors.New("not everything could be ended")

func main() {
	if len(os.Args) == 3 && os.Args[1] == reapCommand {
		reap(os.Args[2])
		return
	}
	stay := flag.Bool("stay", false, "stay up after the demo until Ctrl-C")
	flag.Parse()
	// envtest logs through this, and we say ourselves what happens.
	logf.SetLogger(logr.Discard())

	out := newScreen(os.Stdout, time.Now)
	ctx, stop := notify(func() {
		out.endLine()
		fmt.Fprintln(os.Stderr, "demo: ending…")
	})
	defer stop()
	err := run(ctx, out, *stay)
	out.endLine()
	interrupted := ctx.Err() != nil
	if err != nil && (!interrupted || errors.Is(err, errLeft)) {
		fmt.Fprintln(os.Stderr, "demo: failed:", err)
		os.Exit(1)
	}
	if interrupted {
		fmt.Fprintln(os.Stderr, "demo: ended; everything it started is gone")
	}
	if err != nil {
		os.Exit(130) // as a shell reports an interrupt
	}
}

// notify returns a context that the first signal ends, which is told at once. A
// second one is not caught: it kills the demo, and the reaper cleans up.
func notify(tell func()) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-signals
		signal.Stop(signals)
		tell()
		cancel(errInterrupted)
	}()
	return ctx, func() { cancel(nil) }
}

// run does everything, and undoes it in reverse order.
func run(ctx context.Context, out *screen, stay bool) (err error) {
	dir, release, err := claimDir()
	if err != nil {
		return err
	}
	defer release()

	model, err := chooseProvider(os.Getenv)
	if err != nil {
		return err
	}
	defer model.close()

	built, stopBuild := buildManager(ctx)
	defer stopBuild()
	c, err := startCluster(ctx, dir, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.stop()) }()

	if err := c.install(ctx, out); err != nil {
		return err
	}
	if err := built(); err != nil {
		return err
	}
	m, err := startManager(ctx, c, out)
	if err != nil {
		return err
	}
	defer func() {
		m.stop()
		if err != nil && ctx.Err() == nil {
			m.showLog(os.Stderr)
		}
	}()
	c.sayHow(out, m.streamAddress, stay)

	watch, err := c.watch(ctx, out)
	if err != nil {
		return err
	}
	defer watch.stop()

	if err := show(ctx, out, c, m, model, watch); err != nil || !stay {
		return err
	}
	out.say("demo", "staying up; Ctrl-C ends it. Apply runs of your own (the sample providers would replace the fake's)")
	select {
	case <-ctx.Done():
		// Asked for, so no failure.
		return nil
	case <-m.exited:
		return fmt.Errorf("the manager ended by itself: %w", m.ended())
	}
}

// show applies the samples, follows one of them to its end, and checks.
func show(ctx context.Context, out *screen, c *cluster, m *manager, model provider, watch *watch) error {
	limit := showTime
	if model.real() {
		limit = realTime
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the run was not over within %s", limit))
	defer cancel()
	go func() {
		select {
		case <-m.exited:
			cancel()
		case <-ctx.Done():
		}
	}()

	if err := c.applySamples(ctx, out, model); err != nil {
		return err
	}
	events, err := follow(ctx, out, m.streamAddress, c.namespace, shownRun)
	if err != nil {
		// The end of the stream may be the first sign of the manager's.
		select {
		case <-m.exited:
			return fmt.Errorf("the manager ended by itself: %w", m.ended())
		case <-time.After(signTime):
			return err
		}
	}
	seen, err := c.collect(ctx, model, watch, events)
	if err != nil {
		return err
	}
	out.endLine()
	return report(out, seen, model.expect())
}
