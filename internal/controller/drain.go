// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

const (
	// handOverTimeout bounds the hand-over at shutdown: the last status writes of
	// the attempts that were under way. It stays below the manager's own 30 s.
	handOverTimeout = 20 * time.Second
	// drainPoll is how often it is looked whether all is through.
	drainPoll = 20 * time.Millisecond
)

// Drain ends the attempts at shutdown.
type Drain struct {
	*ChatRunReconciler
	runs *queue
}

// Wait takes on nothing more, tells other replicas so, and returns when no attempt
// is under way and all is written down, or when ctx ends. The manager goes on
// meanwhile; what is left then is handed over when it is stopped.
func (d *Drain) Wait(ctx context.Context) {
	d.pool.Refuse()
	if err := d.members.Drain(ctx); err != nil {
		log.FromContext(ctx).Info("other replicas could not be told that we drain: they take over what waits when we are gone", "cause", err.Error())
	}
	_ = d.until(ctx, func() bool { return !d.unsettled() })
}

// Start implements manager.Runnable. Once the manager stops it ends what is under
// way, and waits until what became of it is written. The manager stops it before
// the reconcilers, which do the writing. Our Lease goes last.
func (d *Drain) Start(ctx context.Context) error {
	<-ctx.Done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handOverTimeout)
	defer cancel()
	err := d.handOver(ctx)
	// What is not handed over is taken for lost when our Lease lapses, and not before:
	// an attempt of ours may be under way still.
	d.members.Leave(ctx, err == nil)
	return err
}

func (d *Drain) handOver(ctx context.Context) error {
	if err := d.pool.Shutdown(ctx); err != nil {
		return fmt.Errorf("ending the attempts: %w", err)
	}
	for _, key := range d.doubts.owing() {
		d.runs.add(key)
	}
	for _, run := range d.pool.Runs() {
		// One whose last write failed sleeps in the queue's back-off otherwise.
		d.runs.add(types.NamespacedName{Namespace: run.Namespace, Name: run.Name})
	}
	if err := d.until(ctx, func() bool { return !d.unsettled() || !d.members.Held() }); err != nil {
		return fmt.Errorf("handing over: %w", err)
	}
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable. It puts the
// drain among the runnables that are stopped first.
func (*Drain) NeedLeaderElection() bool { return false }

func (d *Drain) until(ctx context.Context, through func() bool) error {
	ticker := time.NewTicker(drainPoll)
	defer ticker.Stop()
	for !through() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
	return nil
}

// unsettled says whether something of ours is under way, or not written down.
func (d *Drain) unsettled() bool {
	if d.starts.Load() > 0 || len(d.doubts.owing()) > 0 {
		return true
	}
	for _, run := range d.pool.Runs() {
		if s, ok := d.pool.Look(run.Namespace, run.Name); ok && (s.Running || s.Outcome != nil) {
			return true
		}
	}
	return false
}
