// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Command manager runs the ChatRun operator: the reconcilers, and the stream
// endpoint beside them.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"

	// The authorities that sign providers' certificates, for an image that holds
	// nothing but the manager. Those of the machine come first where there are any.
	_ "golang.org/x/crypto/x509roots/fallback"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"chatrun.dev/operator/internal/controller"
)

// gcPercent is half of Go's own: a stream makes little garbage and holds a lot, so that
// collecting twice as often costs no more than can be measured, and saves a tenth of
// the memory. $GOGC counts where it is set.
const gcPercent = 50

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if err := run(ctrl.SetupSignalHandler(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "manager:", err)
		os.Exit(1)
	}
}

// run is the whole program. It returns when ctx ends, nil if all was well.
func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil || o == nil {
		return err
	}
	logger := o.logger()
	ctrl.SetLogger(logger)
	klog.SetLogger(logger) // what client-go says comes as JSON, too
	cfg, err := o.restConfig()
	if err != nil {
		return fmt.Errorf("finding the API server: %w", err)
	}
	at, err := o.relay.advertised()
	if err != nil {
		return err
	}
	replicas, err := o.replica.members(cfg, at, o.namespaces, o.shardRuns)
	if err != nil {
		return err
	}
	var sharing *controller.Sharing
	if o.shardRuns {
		sharing = controller.NewSharing(replicas, ctrl.Log.WithName("shards"))
	}
	mgr, err := o.manager(cfg, sharing)
	if err != nil {
		return err
	}
	told, err := o.traces.start(replicas.Me(), ctrl.Log.WithName("traces"))
	if err != nil {
		return err
	}
	// After the drain, which ends the last attempts.
	defer closeTraces(ctx, told, ctrl.Log.WithName("traces"))
	drain, err := o.wire(ctx, mgr, replicas, sharing, told)
	if err != nil {
		return err
	}
	return mgr.Start(o.replica.drained(ctx, drain.Wait))
}
