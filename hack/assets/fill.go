// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Bounds of a download. The list of what there is takes a moment where the
// network reaches it at all; the archive has some 60 MB.
const (
	listTime     = 20 * time.Second
	downloadTime = 3 * time.Minute
)

// graceTime is how long an interrupted command may take to tidy up.
const graceTime = 5 * time.Second

// maxReason bounds what is shown of a failed download's own words.
const maxReason = 200

// beat is how often a long step says that it still runs.
const beat = 15 * time.Second

// fill gets a control plane into the store. The caller holds the lock.
func (s store) fill(ctx context.Context, progress io.Writer) (string, error) {
	scratch, err := s.scratch()
	if err != nil {
		return "", err
	}
	defer func() { _ = removeAll(scratch) }()

	_, _ = fmt.Fprintf(progress, "control plane: this machine has none yet; getting Kubernetes %s into %s (once)\n",
		minor(s.version), s.root)
	dir, err := s.download(ctx, scratch, progress)
	if err == nil {
		return dir, nil
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	_, _ = fmt.Fprintf(progress, "control plane: no download (%v); building from source instead, some minutes\n", err)
	return s.build(ctx, scratch, progress)
}

// download lets setup-envtest unpack into the scratch directory, and moves the
// result where setup-envtest would have put it.
func (s store) download(ctx context.Context, scratch string, progress io.Writer) (string, error) {
	tool := func(limit time.Duration, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		var out, complaint bytes.Buffer
		cmd := exec.CommandContext(ctx, "go", append([]string{"tool", "-modfile=hack/tools/go.mod", "setup-envtest",
			"--bin-dir", scratch}, args...)...)
		cmd.Stdout, cmd.Stderr = &out, &complaint
		interruptible(cmd)
		err := cmd.Run()
		if err != nil {
			err = errors.Join(err, ctx.Err())
			return "", fmt.Errorf("%w: %s", err, firstLine(complaint.String()))
		}
		return strings.TrimSpace(out.String()), nil
	}
	release := minor(s.version) + ".x"
	if list, err := tool(listTime, "list", release); err != nil {
		return "", err
	} else if list == "" {
		return "", fmt.Errorf("nobody offers %s for %s/%s", release, runtime.GOOS, runtime.GOARCH)
	}
	done := step(progress, "downloading")
	from, err := tool(downloadTime, "use", release, "-p", "path")
	done(err)
	if err != nil {
		return "", err
	}
	if err := complete(ctx, from); err != nil {
		return "", fmt.Errorf("what came is not complete: %w", err)
	}
	to := filepath.Join(s.root, filepath.Base(from))
	return to, publish(from, to)
}

// build compiles the pinned modules, so it needs no more than what `go build`
// of this repository needs.
func (s store) build(ctx context.Context, scratch string, progress io.Writer) (string, error) {
	out := filepath.Join(scratch, "build")
	for i, part := range []struct{ name, pkg string }{
		{"etcd", "go.etcd.io/etcd/server/v3"},
		{"kubectl", "k8s.io/kubernetes/cmd/kubectl"},
		{"kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"},
	} {
		done := step(progress, fmt.Sprintf("building %s (%d of %d)", part.name, i+1, len(binaries)))
		err := s.compile(ctx, filepath.Join(out, part.name), part.pkg, progress)
		done(err)
		if err != nil {
			return "", fmt.Errorf("building %s: %w", part.name, err)
		}
	}
	if err := complete(ctx, out); err != nil {
		return "", fmt.Errorf("what was built does not run: %w", err)
	}
	return s.dir(), publish(out, s.dir())
}

// compile builds one command of the pinned modules.
func (s store) compile(ctx context.Context, out, pkg string, progress io.Writer) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", s.ldflags(), "-o", out, pkg)
	cmd.Dir = moduleDir
	// Pure Go: no C compiler is needed, and the result runs on any libc.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	cmd.Stderr = progress
	interruptible(cmd)
	return cmd.Run()
}

// ldflags set the version, which a release build gets from its own scripts. The
// API server refuses to start without one.
func (s store) ldflags() string {
	const at = " -X k8s.io/component-base/version."
	major, rest, _ := strings.Cut(s.version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	return "-s -w" + at + "gitVersion=v" + s.version + at + "gitMajor=" + major + at + "gitMinor=" + minor
}

// interruptible lets an interrupted command remove its temporary files.
func interruptible(cmd *exec.Cmd) {
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = graceTime
}

// step says that something begins, every beat that it still runs, and, by the
// function it returns, that it ended, each with the time it took so far.
func step(progress io.Writer, what string) (done func(error)) {
	start := time.Now()
	say := func(how string) {
		_, _ = fmt.Fprintf(progress, "control plane: %s%s [%s]\n", what, how, time.Since(start).Round(time.Second))
	}
	say(" …")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				say(" …")
			}
		}
	}()
	return func(err error) {
		close(stop)
		<-stopped
		if err != nil {
			say(": failed")
		} else {
			say(": done")
		}
	}
}

// firstLine bounds a tool's complaint to what fits a line.
func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	if len(line) > maxReason {
		line = line[:maxReason] + "…"
	}
	return line
}
