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
	"chatrun.dev/operator/test/bench/meter"
)

// kibi and mebi are bytes.
const (
	kibi = 1 << 10
	mebi = 1 << 20
)

// Relayed is what a process took that brings streams from the provider to readers.
type Relayed struct {
	// CPU is in µs a token, Each in KiB a stream, Resident and Peak in MiB.
	CPU, Each, Resident, Peak float64
	Window                    actor.Window
	// Readers is how many there were.
	Readers int
}

func (r Relayed) note() string {
	return fmt.Sprintf("%d readers, %d tokens in %d reads, lag p50 %.2f p99 %.2f max %.1f ms, %.1f MiB resident",
		r.Readers, r.Window.Tokens, r.Window.Reads, r.Window.Latency.P50, r.Window.Latency.P99, r.Window.Latency.Max, r.Resident)
}

// beside is how many files a process needs that are no streams.
const beside = 100

// readersOf is how many runs of a load have a reader: a manager has a connection to
// the provider for each run, and one to each reader, and may open so many files.
func readersOf(l Load) int { return min(l.Runs, meter.Files()-l.Runs-beside) }

// relayByManager lets runs stream through the manager.
func (w *World) relayByManager(ctx context.Context, l Load, silent bool) (_ Relayed, err error) {
	script := actor.Script{Name: fmt.Sprintf("relay-%d", l.Runs), Parts: l.lasting(), Pace: l.pace(), Spread: true, Silent: silent}
	if silent {
		script.Name += "-silent"
	}
	p, err := w.place(ctx, script, false)
	if err != nil {
		return Relayed{}, err
	}
	m, err := w.manager(ctx, p)
	if err != nil {
		return Relayed{}, err
	}
	defer func() { err = errors.Join(err, m.Kill(), p.clear(ctx), w.idle(ctx)) }()
	if err := pause(ctx, w.Scale.Settling); err != nil {
		return Relayed{}, err
	}
	before, err := meter.Resident(m.PID())
	if err != nil {
		return Relayed{}, err
	}
	if _, err := actor.Call[time.Duration](ctx, w.load, "Make", p.runs(l.Runs)); err != nil {
		return Relayed{}, err
	}
	if err := p.await(ctx, l.Runs, 0); err != nil {
		return Relayed{}, err
	}
	r, err := w.look(ctx, m.PID(), actor.Group{Addr: m.addr(), Paths: p.paths(readersOf(l))}, l, silent, before, m)
	return r, err
}

// relayByCopier lets as many streams run through the copier.
func (w *World) relayByCopier(ctx context.Context, l Load, silent bool) (_ Relayed, err error) {
	script := actor.Script{Name: fmt.Sprintf("copy-%d", l.Runs), Parts: l.lasting(), Pace: l.pace(), Spread: true, Silent: silent}
	if err := actor.Do(ctx, w.provider, "Learn", script); err != nil {
		return Relayed{}, err
	}
	if err := w.freshCopier(ctx); err != nil {
		return Relayed{}, err
	}
	defer func() { err = errors.Join(err, w.idle(ctx)) }()
	if err := pause(ctx, w.Scale.Settling); err != nil {
		return Relayed{}, err
	}
	before, err := meter.Resident(w.copier.PID)
	if err != nil {
		return Relayed{}, err
	}
	paths := slices.Repeat([]string{"/" + script.Name}, readersOf(l))
	return w.look(ctx, w.copier.PID, actor.Group{Addr: w.copierAddr, Paths: paths}, l, silent, before, nil)
}

// look joins the readers, and looks for a while at the process that they read from. m
// is the manager whose profiles may be wanted.
func (w *World) look(ctx context.Context, pid int, g actor.Group, l Load, silent bool, before float64, m *manager) (_ Relayed, err error) {
	g.Name = "relay"
	if err := actor.Do(ctx, w.readers, "Join", g); err != nil {
		return Relayed{}, err
	}
	defer func() { err = errors.Join(err, actor.Do(ctx, w.readers, "Leave", g.Name)) }()
	if silent {
		err = pause(ctx, w.Scale.Settling)
	} else {
		err = actor.Do(ctx, w.readers, "Await", actor.Mark{Group: g.Name, Each: 1, Within: patience})
	}
	if err != nil {
		return Relayed{}, err
	}
	profiled := make(chan error, 1)
	if m == nil {
		profiled <- nil
	} else {
		kind := fmt.Sprintf("profile?seconds=%d", max(1, int(w.Scale.Window.Seconds()))) // 0 would be its default
		go func() { profiled <- w.keep(ctx, m, kind, fmt.Sprintf("relay-%d-cpu", l.Runs)) }()
	}
	r := Relayed{Readers: len(g.Paths)}
	used, err := w.window(ctx, pid, g.Name, &r.Window)
	if err := errors.Join(err, <-profiled); err != nil {
		return Relayed{}, err
	}
	if m != nil {
		if err := w.keep(ctx, m, "heap", fmt.Sprintf("relay-%d-heap", l.Runs)); err != nil {
			return Relayed{}, err
		}
	}
	after, err := meter.Resident(pid)
	if err != nil {
		return Relayed{}, err
	}
	peak, err := meter.Peak(pid)
	if err != nil {
		return Relayed{}, err
	}
	if !silent && r.Window.Tokens == 0 {
		return Relayed{}, errors.New("no token came")
	}
	r.CPU = float64(used.Microseconds()) / float64(max(r.Window.Tokens, 1))
	r.Each = (after - before) / kibi / float64(l.Runs)
	r.Resident, r.Peak = after/mebi, peak/mebi
	return r, nil
}

// window opens one, and returns what a process has used in it.
func (w *World) window(ctx context.Context, pid int, group string, into *actor.Window) (time.Duration, error) {
	if err := actor.Do(ctx, w.readers, "Open", group); err != nil {
		return 0, err
	}
	began, err := meter.CPU(pid)
	if err != nil {
		return 0, err
	}
	if err := pause(ctx, w.Scale.Window); err != nil {
		return 0, err
	}
	ended, err := meter.CPU(pid)
	if err != nil {
		return 0, err
	}
	*into, err = actor.Call[actor.Window](ctx, w.readers, "Shut", group)
	return ended - began, err
}

// both measures the manager, and then the copier.
func (w *World) both(ctx context.Context, l Load, silent bool) (ours, floor Relayed, err error) {
	w.Say("%d runs, each %.3g tokens a second, silent: %v: the manager", l.Runs, l.PerSecond, silent)
	if ours, err = w.relayByManager(ctx, l, silent); err != nil {
		return ours, floor, fmt.Errorf("the manager: %w", err)
	}
	w.Say("  %s; %.1f µs a token, %.1f KiB a stream; the copier", ours.note(), ours.CPU, ours.Each)
	if floor, err = w.relayByCopier(ctx, l, silent); err != nil {
		return ours, floor, fmt.Errorf("the copier: %w", err)
	}
	w.Say("  %s; %.1f µs a token, %.1f KiB a stream", floor.note(), floor.CPU, floor.Each)
	return ours, floor, nil
}

// relay is the scenario of the two loads, and of silent runs.
func relay(ctx context.Context, w *World) (figuresOf, error) {
	found := figuresOf{}
	for _, name := range []string{"many", "fast"} {
		l := map[string]Load{"many": w.Scale.Many, "fast": w.Scale.Fast}[name]
		ours, floor, err := w.both(ctx, l, false)
		if err != nil {
			return nil, err
		}
		note := "manager: " + ours.note() + "; copier: " + floor.note()
		found.add("relay-cpu-"+name, ours.CPU, floor.CPU, note)
		found.add("relay-p50-"+name, ours.Window.Latency.P50, floor.Window.Latency.P50, "")
		found.add("relay-p99-"+name, ours.Window.Latency.P99, floor.Window.Latency.P99, "")
		if name == "many" {
			found.add("memory-live", ours.Each, floor.Each, "")
		}
	}
	ours, floor, err := w.both(ctx, Load{w.Scale.Silent, 1}, true)
	if err != nil {
		return nil, err
	}
	found.add("memory-silent", ours.Each, floor.Each, "")
	return found, nil
}

// huge is the scenario of very many runs, which have to fit.
func huge(ctx context.Context, w *World) (figuresOf, error) {
	w.Say("%d runs in one manager", w.Scale.Huge.Runs)
	r, err := w.relayByManager(ctx, w.Scale.Huge, false)
	if err != nil {
		return nil, err
	}
	found := figuresOf{}
	found.add("memory-huge", r.Peak, 0, r.note())
	return found, nil
}

// fanout is the scenario of one run with many readers.
func fanout(ctx context.Context, w *World) (_ figuresOf, err error) {
	w.Say("one run with %d readers: the manager", w.Scale.Crowd)
	p, err := w.place(ctx, actor.Script{Name: "fanout", Parts: int(2 * time.Minute / actor.FanoutPace), Pace: actor.FanoutPace}, false)
	if err != nil {
		return nil, err
	}
	m, err := w.manager(ctx, p)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Kill(), p.clear(ctx), w.idle(ctx)) }()
	if _, err := actor.Call[time.Duration](ctx, w.load, "Make", p.runs(1)); err != nil {
		return nil, err
	}
	if err := p.await(ctx, 1, 0); err != nil {
		return nil, err
	}
	ours, err := w.deliver(ctx, m.PID(), actor.Group{Name: "fanout", Addr: m.addr(), Paths: slices.Repeat(p.paths(1), w.Scale.Crowd)})
	if err != nil {
		return nil, err
	}
	w.Say("  %.2f µs a frame and reader; bare writes", ours)
	addr, err := actor.Call[string](ctx, w.bare, "Listen", w.Scale.Crowd)
	if err != nil {
		return nil, err
	}
	floor, err := w.deliver(ctx, w.bare.PID, actor.Group{Name: "bare", Addr: addr, Paths: slices.Repeat([]string{"/"}, w.Scale.Crowd)})
	if err != nil {
		return nil, err
	}
	w.Say("  %.2f µs a frame and reader", floor)
	found := figuresOf{}
	found.add("fanout-cpu", ours, floor, "")
	return found, nil
}

// deliver is the CPU that a frame costs a process for each reader, in µs.
func (w *World) deliver(ctx context.Context, pid int, g actor.Group) (_ float64, err error) {
	if err := actor.Do(ctx, w.readers, "Join", g); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, actor.Do(ctx, w.readers, "Leave", g.Name)) }()
	if err := actor.Do(ctx, w.readers, "Await", actor.Mark{Group: g.Name, Each: 2, Within: patience}); err != nil {
		return 0, err
	}
	var window actor.Window
	used, err := w.window(ctx, pid, g.Name, &window)
	if err != nil {
		return 0, err
	}
	if window.Tokens == 0 {
		return 0, errors.New("no frame came")
	}
	return float64(used.Nanoseconds()) / 1000 / float64(window.Tokens), nil
}
