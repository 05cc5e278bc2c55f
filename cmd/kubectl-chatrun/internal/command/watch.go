// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/runs"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/screen"
)

func (p *plugin) watchCommand() *cobra.Command {
	which, doors, rates := &chosen{}, &doorFlags{}, true
	cmd := &cobra.Command{
		Use: "watch", Args: cobra.NoArgs, Short: "Watch runs: a live table, or a line for each change in a pipe",
		Long: "Watch runs until Ctrl-C. On a terminal a table is redrawn in place, with the time until each next attempt and the rate\n" +
			"at which tokens come. In a pipe each change is a line.\n\n" +
			"A rate with ≈ is an estimate: the text that came within the last seconds, at four bytes a token. It needs the right\n" +
			"to read streams and a door to them; without one the rate is shown once a run is over.\n\n" + viaHelp,
		Example:           "  kubectl chatrun watch\n  kubectl chatrun watch -A -l team=a\n  kubectl chatrun watch | grep Failed",
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	which.add(cmd)
	doors.add(cmd)
	cmd.Flags().BoolVar(&rates, "rates", rates, "Read the streams of runs, for their rates.")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, one, err := p.at()
		if err != nil {
			return err
		}
		options, err := which.options()
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		w := &watching{board: screen.NewBoard(screen.BoardOptions{
			Out: p.Out, Err: p.ErrOut, Terminal: isTerminal(p.Out), Now: time.Now, Size: size(p.Out), Namespaces: which.all,
		})}
		if rates && isTerminal(p.Out) {
			follower, err := doors.follower(ctx, p, client, func(string) {})
			if err != nil {
				return err
			}
			follower.Object = nil // it brings no text before the end
			w.meter = newMeter(follower, time.Now)
		}
		return w.run(ctx, client.Runs(which.namespace(one)), options)
	}
	return cmd
}

// watching shows runs as they change.
type watching struct {
	board *screen.Board
	// meter counts the tokens of runs; it may be nil.
	meter *meter
}

// change is a run as it is now, or was before it went.
type change struct {
	run  *v1alpha1.ChatRun
	gone bool
}

func (w *watching) run(ctx context.Context, client *runs.Runs, options metav1.ListOptions) error {
	ctx, cancel := context.WithCancel(ctx)
	changes, failures := make(chan change), make(chan error)
	ended := make(chan struct{})
	defer func() { cancel(); <-ended }()
	informer, err := inform(ctx, client, options, changes, failures)
	if err != nil {
		cancel()
		close(ended)
		return err
	}
	go func() { defer close(ended); informer.RunWithContext(ctx) }()
	var counts <-chan count
	if w.meter != nil {
		counts = w.meter.counts
	}
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		select {
		case c := <-changes:
			w.take(ctx, c)
		case n := <-counts:
			w.meter.add(n)
			continue // what is drawn changes with the time
		case err := <-failures:
			if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsNotFound(err) {
				return err
			}
			w.board.Note("The API server cannot be watched, and is asked again: " + err.Error())
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if w.meter != nil {
			w.board.Rates = w.meter.rates()
		}
		tick.Reset(w.board.Draw())
		if err := w.board.Broken(); err != nil {
			return err
		}
	}
}

func (w *watching) take(ctx context.Context, c change) {
	if c.gone {
		w.board.Remove(c.run)
	} else {
		w.board.Set(c.run)
	}
	if w.meter != nil {
		w.meter.set(ctx, c.run, !c.gone && c.run.Status.Phase == v1alpha1.PhaseStreaming)
	}
}

// inform hands over changes, and failures to watch them, until ctx ends.
func inform(ctx context.Context, client *runs.Runs, options metav1.ListOptions, changes chan<- change, failures chan<- error) (cache.SharedIndexInformer, error) {
	with := func(o metav1.ListOptions) metav1.ListOptions {
		o.LabelSelector, o.FieldSelector = options.LabelSelector, options.FieldSelector
		return o
	}
	informer := cache.NewSharedIndexInformer(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return client.List(ctx, with(o))
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return client.Watch(ctx, with(o))
		},
	}, &v1alpha1.ChatRun{}, 0, nil)
	hand := func(object any, gone bool) {
		if last, is := object.(cache.DeletedFinalStateUnknown); is {
			object = last.Obj
		}
		if run, is := object.(*v1alpha1.ChatRun); is {
			select {
			case changes <- change{run, gone}:
			case <-ctx.Done():
			}
		}
	}
	_, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { hand(object, false) },
		UpdateFunc: func(_, object any) { hand(object, false) },
		DeleteFunc: func(object any) { hand(object, true) },
	})
	if err != nil {
		return nil, err
	}
	if err := informer.SetTransform(slim); err != nil {
		return nil, err
	}
	return informer, informer.SetWatchErrorHandlerWithContext(func(_ context.Context, _ *cache.Reflector, err error) {
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			return // it lists anew
		}
		select {
		case failures <- err:
		case <-ctx.Done():
		}
	})
}

// slim drops what no table shows, and what may be long.
func slim(object any) (any, error) {
	if run, is := object.(*v1alpha1.ChatRun); is {
		run.ManagedFields, run.Spec.Prompt, run.Spec.System, run.Spec.Messages, run.Status.Output = nil, "", "", nil, nil
	}
	return object, nil
}
