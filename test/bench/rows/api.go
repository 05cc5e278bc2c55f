// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package rows

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chatrun.dev/operator/test/bench/actor"
	"chatrun.dev/operator/test/bench/figures"
	"chatrun.dev/operator/test/bench/meter"
)

// answers is the script of runs that end.
func answers(name string) actor.Script {
	return actor.Script{Name: name, Parts: answerParts, Pace: answerPace}
}

// idle is the scenario of one run after another.
func idle(ctx context.Context, w *World) (_ figuresOf, err error) {
	w.Say("%d runs one after another", w.Scale.OneByOne)
	p, err := w.place(ctx, answers("idle"), false)
	if err != nil {
		return nil, err
	}
	m, err := w.manager(ctx, p)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Kill(), p.clear(ctx)) }()
	waits, err := actor.Call[actor.Waits](ctx, w.load, "OneByOne", actor.Idle{
		Namespace: p.namespace, Prefix: "run", N: w.Scale.OneByOne, Stream: m.Stream, Provider: w.providerURL, Model: p.model,
	})
	if err != nil {
		return nil, err
	}
	note := func(ours, direct []float64) string {
		return fmt.Sprintf("p99 %.1f ms, of the direct call %.1f ms", figures.Percentile(ours, 99), figures.Percentile(direct, 99))
	}
	found := figuresOf{}
	found.add("first-token", figures.Median(waits.First), figures.Median(waits.DirectFirst), note(waits.First, waits.DirectFirst))
	found.add("one-run", figures.Median(waits.Whole), figures.Median(waits.DirectWhole), note(waits.Whole, waits.DirectWhole))
	return found, nil
}

// readVerbs are those of requests that change nothing.
var readVerbs = []string{"get", "list"}

// others are what a manager asks for itself, whatever runs there are.
var others = []string{"leases", "chatproviders"}

// requests is the scenario that counts what runs with a key and a title ask of the API
// server, by its audit log.
func requests(ctx context.Context, w *World) (_ figuresOf, err error) {
	n := w.Scale.Counted
	w.Say("what %d runs ask of the API server", n)
	p, err := w.place(ctx, answers("requests"), true)
	if err != nil {
		return nil, err
	}
	m, err := w.manager(ctx, p)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Kill(), p.clear(ctx)) }()
	// What is asked before there is a run, such as whether the provider's Secret is
	// there, is no run's.
	readBefore, writtenBefore, err := w.untilQuiet(ctx, p)
	if err != nil {
		return nil, err
	}
	runs := p.runs(n)
	runs.Title = true
	if _, err := actor.Call[time.Duration](ctx, w.load, "Make", runs); err != nil {
		return nil, err
	}
	if err := p.await(ctx, 0, n); err != nil {
		return nil, err
	}
	reads, writes, err := w.untilQuiet(ctx, p)
	if err != nil {
		return nil, err
	}
	reads, writes = reads-readBefore, writes-writtenBefore
	seen, err := actor.Call[actor.Seen](ctx, w.load, "Look", p.namespace)
	if err != nil {
		return nil, err
	}
	each := func(count float64) float64 { return count / float64(n) }
	if each(writes) < 2 {
		return nil, errors.New("the audit log is not whole")
	}
	found := figuresOf{}
	found.add("api-writes", each(writes), 0, "a write that met another and was made again counts twice")
	found.add("api-reads", each(reads), 0, "")
	found.add("api-events", each(float64(seen.Events)), 0, "")
	return found, nil
}

// untilQuiet counts what was asked about objects of a place, once nothing more is: a
// title may come after the end of its run.
func (w *World) untilQuiet(ctx context.Context, p *place) (reads, writes float64, err error) {
	for before := -1.0; reads+writes != before; {
		before = reads + writes
		if err := pause(ctx, w.Scale.Quiet); err != nil {
			return 0, 0, err
		}
		kinds := map[string]int{}
		if reads, writes, err = w.asked(p, kinds); err != nil {
			return 0, 0, err
		}
		w.Say("  %v", kinds)
	}
	return reads, writes, nil
}

// asked counts what the manager asked about objects of a place.
func (w *World) asked(p *place, kinds map[string]int) (reads, writes float64, err error) {
	all, err := w.plane.Requests(p.namespace)
	if err != nil {
		return 0, 0, err
	}
	for _, r := range all {
		if slices.Contains(others, r.Resource) {
			continue
		}
		kind := r.Verb + " " + r.Resource
		if r.Subresource != "" {
			kind += "/" + r.Subresource
		}
		kinds[kind]++
		if slices.Contains(readVerbs, r.Verb) {
			reads++
		} else {
			writes++
		}
	}
	return reads, writes, nil
}

// burst is what became of runs that were made at once.
type burst struct {
	took      time.Duration
	cpu, peak float64 // ms a run, MiB
}

// burst makes n runs at once, for a manager of its own. Its place is left as it is.
func (w *World) burst(ctx context.Context, p *place, n int) (b burst, err error) {
	m, err := w.manager(ctx, p)
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, m.Kill()) }()
	if err := pause(ctx, w.Scale.Settling); err != nil {
		return b, err
	}
	before, err := meter.CPU(m.PID())
	if err != nil {
		return b, err
	}
	began := time.Now()
	if _, err := actor.Call[time.Duration](ctx, w.load, "Make", p.runs(n)); err != nil {
		return b, err
	}
	if err := p.await(ctx, 0, n); err != nil {
		return b, err
	}
	b.took = time.Since(began)
	after, err := meter.CPU(m.PID())
	if err != nil {
		return b, err
	}
	peak, err := meter.Peak(m.PID())
	b.cpu, b.peak = figures.Milliseconds(after-before)/float64(n), peak/mebi
	return b, err
}

// floorRate is how many runs a second a bare client gets through, with the number of
// workers that suits it best.
func (w *World) floorRate(ctx context.Context, like *place) (best float64, err error) {
	for _, workers := range w.Scale.FloorWorkers {
		p, err := w.place(ctx, answers("floor"), false)
		if err != nil {
			return 0, err
		}
		runs := p.runs(w.Scale.Floor)
		runs.Workers = workers
		took, err := actor.Call[time.Duration](ctx, w.load, "Floor", actor.Floor{Runs: runs, Like: like.namespace})
		if err := errors.Join(err, p.clear(ctx)); err != nil {
			return 0, err
		}
		rate := float64(w.Scale.Floor) / took.Seconds()
		w.Say("  a bare client with %d workers: %.0f runs/s, %.0f writes/s", workers, rate, 3*rate)
		best = max(best, rate)
	}
	return best, nil
}

// throughput is the scenario of runs at once, and of runs at a rate.
func throughput(ctx context.Context, w *World) (figuresOf, error) {
	found := figuresOf{}
	small, err := w.place(ctx, answers("burst"), false)
	if err != nil {
		return nil, err
	}
	w.Say("%d runs at once", w.Scale.Burst)
	few, err := w.burst(ctx, small, w.Scale.Burst)
	if err != nil {
		return nil, err
	}
	w.Say("  %s, %.1f ms CPU a run, %.0f MiB at most", few.took.Round(time.Millisecond), few.cpu, few.peak)
	if err := small.clear(ctx); err != nil {
		return nil, err
	}
	floor, err := w.floorRate(ctx, small)
	if err != nil {
		return nil, err
	}
	large, err := w.place(ctx, answers("burst"), false)
	if err != nil {
		return nil, err
	}
	w.Say("%d runs at once", w.Scale.LargeBurst)
	many, err := w.burst(ctx, large, w.Scale.LargeBurst)
	if err := errors.Join(err, large.clear(ctx)); err != nil {
		return nil, err
	}
	w.Say("  %s, %.1f ms CPU a run, %.0f MiB at most", many.took.Round(time.Millisecond), many.cpu, many.peak)
	n := float64(w.Scale.Burst)
	found.add("rate-200", n/few.took.Seconds(), floor, "")
	found.add("rate-1000", float64(w.Scale.LargeBurst)/many.took.Seconds(), floor, fmt.Sprintf("%.1f ms CPU a run, %.0f MiB at most", many.cpu, many.peak))
	found.add("time-200", few.took.Seconds(), n/floor+answerTime.Seconds(), "")
	found.add("run-cpu", few.cpu, 0, "")
	found.add("burst-memory", few.peak, 0, "")
	return found, w.offered(ctx, found, floor*offeredShare)
}

// The names of what controller-runtime measures, and of our controller in it.
const (
	reconcilesName = "controller_runtime_reconcile_total"
	queuedName     = "workqueue_queue_duration_seconds"
	controllerName = "chatrun"
)

var (
	ofReconciles = map[string]string{"controller": controllerName}
	ofQueue      = map[string]string{"name": controllerName}
)

// offered offers runs at a rate, whatever becomes of those before.
func (w *World) offered(ctx context.Context, found figuresOf, rate float64) (err error) {
	n := max(1, int(rate*w.Scale.Offered.Seconds()))
	w.Say("%d runs offered, %.0f a second", n, rate)
	p, err := w.place(ctx, answers("offered"), false)
	if err != nil {
		return err
	}
	m, err := w.manager(ctx, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Kill(), p.clear(ctx)) }()
	before, err := meter.Scrape(ctx, m.metrics)
	if err != nil {
		return err
	}
	runs := p.runs(n)
	runs.PerSecond, runs.Workers = rate, 4*w.Scale.Workers // enough that none waits for another
	took, err := actor.Call[time.Duration](ctx, w.load, "Make", runs)
	if err != nil {
		return err
	}
	if err := p.await(ctx, 0, n); err != nil {
		return err
	}
	after, err := meter.Scrape(ctx, m.metrics)
	if err != nil {
		return err
	}
	was, err := before.Histogram(queuedName, ofQueue)
	if err != nil {
		return err
	}
	is, err := after.Histogram(queuedName, ofQueue)
	if err != nil {
		return err
	}
	queued := is.Since(was)
	reconciles := after.Sum(reconcilesName, ofReconciles) - before.Sum(reconcilesName, ofReconciles)
	if reconciles < float64(n) || queued.Count < float64(n) {
		return fmt.Errorf("%.0f reconciles and %.0f waits in the queue were counted for %d runs", reconciles, queued.Count, n)
	}
	note := fmt.Sprintf("%d runs, offered %.1f a second", n, float64(n)/took.Seconds())
	found.add("reconciles", reconciles/float64(n), 0, note)
	found.add("queue-p99", 1000*queued.Percentile(99), 0, fmt.Sprintf("p50 %.3f ms; read off between the bounds of a histogram", 1000*queued.Percentile(50)))
	w.Say("  %.1f reconciles a run, p99 in the queue %.1f ms", reconciles/float64(n), 1000*queued.Percentile(99))
	return nil
}

// stored is the scenario of a store full of runs that are finished.
func stored(ctx context.Context, w *World) (_ figuresOf, err error) {
	p, err := w.place(ctx, answers("stored"), false)
	if err != nil {
		return nil, err
	}
	empty, err := w.emptyManager(ctx, p)
	if err != nil {
		return nil, err
	}
	w.Say("storing %d finished runs", w.Scale.Stored)
	runs := p.runs(w.Scale.Stored)
	runs.Prefix = "stored"
	took, err := actor.Call[time.Duration](ctx, w.load, "Floor", actor.Floor{Runs: runs, Like: p.namespace, Finished: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.clear(ctx)) }()
	w.Say("  in %s", took.Round(time.Second))
	found := figuresOf{}
	for range w.Scale.Starts {
		listed, err := actor.Call[actor.Listed](ctx, w.load, "List", actor.None{})
		if err != nil {
			return nil, err
		}
		if listed.N < w.Scale.Stored {
			return nil, fmt.Errorf("%d runs are listed", listed.N)
		}
		m, err := w.manager(ctx, p)
		if err != nil {
			return nil, err
		}
		resident, peak, err := w.settled(ctx, m)
		if err := errors.Join(err, m.Terminate()); err != nil {
			return nil, err
		}
		each := (resident - empty) / kibi / float64(listed.N)
		found.add("stored-ready", m.ready.Seconds(), listed.Took.Seconds(), "")
		found.add("stored-memory", each, 0, fmt.Sprintf("%.0f MiB, %.0f at most; %.0f with none stored", resident/mebi, peak/mebi, empty/mebi))
		w.Say("  ready in %.2f s, listed in %.2f s, %.1f KiB a run", m.ready.Seconds(), listed.Took.Seconds(), each)
	}
	return found, nil
}

// emptyManager is the memory of a manager that holds next to nothing. It answers one
// run, so that there is one whose status can be copied.
func (w *World) emptyManager(ctx context.Context, p *place) (_ float64, err error) {
	m, err := w.manager(ctx, p)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.Terminate()) }()
	resident, _, err := w.settled(ctx, m)
	if err != nil {
		return 0, err
	}
	if _, err := actor.Call[time.Duration](ctx, w.load, "Make", p.runs(1)); err != nil {
		return 0, err
	}
	return resident, p.await(ctx, 0, 1)
}

// settled is the memory of a manager that was left alone for a while.
func (w *World) settled(ctx context.Context, m *manager) (resident, peak float64, err error) {
	if err := pause(ctx, w.Scale.Settling); err != nil {
		return 0, 0, err
	}
	if resident, err = meter.Resident(m.PID()); err != nil {
		return 0, 0, err
	}
	peak, err = meter.Peak(m.PID())
	return resident, peak, err
}
