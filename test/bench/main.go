// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Command bench measures the manager: a real one, with a real control plane, a fake
// provider, and load and readers in processes of their own. docs/performance.md says
// what it measures and how.
//
//	bench run      measure the rows, print the table, exit with 1 if a budget is missed
//	bench grow     measure how cost grows with the number of runs
//	bench plot     draw that
//	bench soak     half the load with faults, for long
//	bench docs     put the figures into docs/performance.md
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"chatrun.dev/operator/test/bench/actor"
	"chatrun.dev/operator/test/bench/figures"
	"chatrun.dev/operator/test/bench/plots"
	"chatrun.dev/operator/test/bench/rows"
	"chatrun.dev/operator/test/harness"
)

// The files of one command that another reads.
const (
	resultsFile = "results.json"
	someFile    = "some.json" // of some rows alone: no table of the docs is made of it
	growthFile  = "growth.json"
	soakFile    = "soak.json"
)

// options are the flags of all commands.
type options struct {
	out, rows, profiles string
	repetitions         int
	tiny                bool
	soak                time.Duration
}

func main() {
	actor.Main()
	ctrl.SetLogger(logr.Discard()) // it complains if nobody says
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("say what to do: run, grow, plot, soak or docs")
	}
	var o options
	fs := flag.NewFlagSet("bench "+args[0], flag.ContinueOnError)
	fs.StringVar(&o.out, "out", filepath.Join(harness.Root(), "bin", "bench"), "Directory of the results.")
	fs.StringVar(&o.rows, "rows", "", "Regular expression: the scenarios to run, all if it is empty.")
	fs.StringVar(&o.profiles, "profiles", "", "Directory for profiles of the manager under load. The figures are then those of a manager that is looked into.")
	fs.IntVar(&o.repetitions, "repetitions", 3, "How often each scenario is run.")
	fs.BoolVar(&o.tiny, "tiny", false, "Do little: the figures mean nothing.")
	fs.DurationVar(&o.soak, "for", 20*time.Minute, "How long to soak.")
	switch err := fs.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return err
	}
	commands := map[string]func(context.Context, options) error{
		"run": measure, "grow": grow, "plot": plot, "soak": soak, "docs": document,
	}
	if command := commands[args[0]]; command != nil {
		return command(ctx, o)
	}
	return fmt.Errorf("there is no %q", args[0])
}

// inWorld does something in a world of its own.
func (o options) inWorld(ctx context.Context, do func(*rows.World) error) (err error) {
	scale := rows.Full()
	if o.tiny {
		scale = rows.Tiny()
	}
	began := time.Now()
	w, err := rows.NewWorld(ctx, scale, func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%5s "+format+"\n", append([]any{time.Since(began).Round(time.Second)}, args...)...)
	})
	if err != nil {
		return err
	}
	w.Profiles = o.profiles
	defer func() { err = errors.Join(err, w.Stop()) }()
	return do(w)
}

func measure(ctx context.Context, o options) error {
	only, err := regexp.Compile(o.rows)
	if err != nil {
		return err
	}
	return o.inWorld(ctx, func(w *rows.World) error {
		report, err := rows.Run(ctx, w, only, o.repetitions)
		if err != nil {
			return err
		}
		if o.profiles != "" {
			// Who is looked into is slower, and is not judged.
			fmt.Printf("The profiles are in %s.\n", o.profiles)
			return nil
		}
		fmt.Printf("%s\n%s", report.Table(), report.Notes())
		file := resultsFile
		if o.rows != "" {
			file = someFile
		}
		if err := figures.Write(filepath.Join(o.out, file), report); err != nil {
			return err
		}
		if missed := report.Missed(); len(missed) > 0 {
			return fmt.Errorf("budgets are missed: %s", strings.Join(missed, ", "))
		}
		return nil
	})
}

func grow(ctx context.Context, o options) error {
	return o.inWorld(ctx, func(w *rows.World) error {
		growth, err := rows.Grow(ctx, w)
		if err != nil {
			return err
		}
		fmt.Print(growth.Table())
		return figures.Write(filepath.Join(o.out, growthFile), growth)
	})
}

func plot(_ context.Context, o options) error {
	var growth rows.Growth
	if err := figures.Read(filepath.Join(o.out, growthFile), &growth); err != nil {
		return fmt.Errorf("reading what `make bench-growth` writes: %w", err)
	}
	return plots.Growth(growth, filepath.Join(harness.Root(), "docs"))
}

func soak(ctx context.Context, o options) error {
	return o.inWorld(ctx, func(w *rows.World) error {
		soaked, err := rows.Soak(ctx, w, o.soak)
		if err != nil {
			return err
		}
		fmt.Print(soaked.Text())
		return errors.Join(soaked.Err(), figures.Write(filepath.Join(o.out, soakFile), soaked))
	})
}

// document puts what the files say into docs/performance.md. A file that is not there
// leaves its part as it is.
func document(_ context.Context, o options) error {
	path := filepath.Join(harness.Root(), "docs", "performance.md")
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text, filled := string(raw), 0
	fill := func(name, with string) error {
		filled++
		text, err = figures.Fill(text, name, with)
		return err
	}
	var report figures.Report
	var growth rows.Growth
	var soaked rows.Soaked
	for _, part := range []struct {
		file string
		into any
		fill func() error
	}{
		{resultsFile, &report, func() error {
			known := report.Shortfalls()
			if known == "" {
				known = "None is known."
			}
			return errors.Join(fill("figures", report.Table()), fill("shortfalls", known))
		}},
		{growthFile, &growth, func() error { return fill("growth", growth.Table()+plots.Links(filepath.Dir(path))) }},
		{soakFile, &soaked, func() error { return fill("soak", soaked.Text()) }},
	} {
		switch err := figures.Read(filepath.Join(o.out, part.file), part.into); {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			return err
		}
		if err := part.fill(); err != nil {
			return err
		}
	}
	if filled == 0 {
		return fmt.Errorf("%s holds no results: measure first, with `make bench`", o.out)
	}
	return os.WriteFile(path, []byte(text), 0o644)
}
