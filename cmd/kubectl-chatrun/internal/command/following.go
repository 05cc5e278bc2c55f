// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/follow"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/runs"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/screen"
)

// grace is how long a second Ctrl-C may take to cancel a run: long enough to read what
// the first one says, short enough not to be in the way.
const grace = 3 * time.Second

// The doors that --via names.
const (
	viaAuto    = "auto"
	viaAPI     = "api"
	viaForward = "port-forward"
	viaObject  = "object"
)

const viaHelp = `The tokens come through (--via):
  api           the API server's front door, with your kubeconfig alone
  port-forward  a tunnel to a manager, with the token of your kubeconfig
  object        no door: phases and retries as they come, the text at the end
  auto          the first of these that is open (default)
or from the address of a manager that --stream-url names.`

// doorFlags say how the tokens come.
type doorFlags struct {
	via, address, namespace string
	trust                   follow.Trust
}

func (d *doorFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&d.via, "via", viaAuto, "Door to the stream: auto, api, port-forward or object.")
	f.StringVar(&d.address, "stream-url", "", "Address of a manager, such as https://chatrun.example:8090, in place of --via.")
	f.StringVar(&d.trust.CAFile, "stream-ca", "", "File with the authority of the manager's certificate. Without it the system's count, and a port-forward checks none.")
	f.BoolVar(&d.trust.Insecure, "stream-insecure", false, "Do not check the certificate at --stream-url. Whoever is on the way can take your token.")
	f.StringVar(&d.trust.ServerName, "stream-server-name", "", "Name in the manager's certificate, if it is not that of the address.")
	f.StringVar(&d.trust.TokenFile, "stream-token-file", "", "File with a token of Kubernetes for --stream-url and port-forward, in place of the kubeconfig's.")
	f.StringVar(&d.namespace, "stream-namespace", "chatrun-system", "Namespace of the managers, for port-forward.")
	complete(cmd, "via", cobra.FixedCompletions([]string{viaAuto, viaAPI, viaForward, viaObject}, cobra.ShellCompDirectiveNoFileComp))
}

// follower chooses the doors.
func (d *doorFlags) follower(ctx context.Context, p *plugin, client *runs.Client, say func(string)) (*follow.Follower, error) {
	cfg, err := p.config()
	if err != nil {
		return nil, err
	}
	if d.trust.CAFile != "" && d.trust.Insecure {
		return nil, errors.New("--stream-ca and --stream-insecure exclude each other")
	}
	f := &follow.Follower{Say: say}
	if d.address != "" {
		door, err := follow.NewAddress(cfg, d.address, d.trust)
		f.Doors = append(f.Doors, door)
		return f, err
	}
	front, err := follow.NewFrontDoor(cfg)
	if err != nil {
		return nil, err
	}
	tunnel, err := follow.NewTunnel(cfg, d.namespace, d.trust)
	if err != nil {
		return nil, err
	}
	switch d.via {
	case viaAPI:
		f.Doors = []follow.Door{front}
	case viaForward:
		f.Doors = []follow.Door{tunnel}
	case viaObject:
		f.Object = &follow.Object{Client: client}
	case viaAuto:
		f.Object = &follow.Object{Client: client}
		stands, err := front.Stands(ctx)
		if err != nil {
			return nil, err
		}
		if stands {
			f.Doors = append(f.Doors, front)
		}
		f.Doors = append(f.Doors, tunnel)
	default:
		return nil, fmt.Errorf("--via %q is no door: it is auto, api, port-forward or object", d.via)
	}
	return f, nil
}

// following is one run that is shown.
type following struct {
	*plugin

	client *runs.Client
	key    follow.Key
	doors  *doorFlags
	// live waits for the run's end, or tells what stands.
	live bool
	// hold keeps the text back until the end, cancel cancels the run on the first Ctrl-C.
	hold, cancel bool
	// out is where the text goes.
	out io.Writer
	// cancelled says that a cancel was asked for.
	cancelled bool
}

// isTerminal says whether a stream is one.
func isTerminal(stream any) bool {
	f, is := stream.(*os.File)
	return is && term.IsTerminal(int(f.Fd()))
}

// size is how many columns and rows a terminal has, 0 if it is none.
func size(stream any) func() (width, height int) {
	f, is := stream.(*os.File)
	return func() (int, int) {
		if !is {
			return 0, 0
		}
		width, height, err := term.GetSize(int(f.Fd()))
		if err != nil {
			return 0, 0
		}
		return width, height
	}
}

// show shows the run until it is done, and says how it ended.
func (f *following) show(ctx context.Context) (screen.Outcome, error) {
	view := screen.New(screen.Options{
		Out: f.out, Err: f.ErrOut, OutTerminal: isTerminal(f.out), ErrTerminal: isTerminal(f.ErrOut),
		Hold: f.hold, Now: time.Now, Size: size(f.ErrOut),
	})
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	events, ended := make(chan any), make(chan error, 1)
	hand := func(event any) {
		select {
		case events <- event:
		case <-ctx.Done():
		}
	}
	go func() {
		follower, err := f.doors.follower(ctx, f.plugin, f.client, func(line string) { hand(note(line)) })
		if err == nil {
			err = follower.Follow(ctx, f.key, f.live, func(e follow.Event) { hand(e) })
		}
		ended <- err
	}()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	return f.loop(ctx, view, events, ended, signals)
}

// note is a line for people that comes between the events.
type note string

func (f *following) loop(ctx context.Context, view *screen.View, events <-chan any, ended <-chan error, signals <-chan os.Signal) (screen.Outcome, error) {
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		if next := view.Draw(); next > 0 {
			tick.Reset(next)
		}
		select {
		case e := <-events:
			if line, is := e.(note); is {
				view.Say(screen.Clean(string(line)))
			} else {
				view.Take(e)
			}
		case <-tick.C:
		case s := <-signals:
			if err := f.interrupted(ctx, view, s, signals); err != nil {
				return screen.Outcome{}, err
			}
		case err := <-ended:
			outcome, failure := view.End()
			return outcome, errors.Join(err, failure)
		}
		if err := view.Broken(); err != nil {
			return screen.Outcome{}, err
		}
	}
}

// interrupted handles a Ctrl-C. It returns nil if the run is to be followed on, to the
// end that a cancel brings.
func (f *following) interrupted(ctx context.Context, view *screen.View, first os.Signal, signals <-chan os.Signal) error {
	stop := &exitError{ExitInterrupted}
	if !f.live || f.cancelled {
		return stop
	}
	if !f.cancel {
		view.Say(fmt.Sprintf("The run goes on. To come back: kubectl chatrun logs -f -n %[1]s %[2]s; to end it: kubectl chatrun cancel -n %[1]s %[2]s",
			f.key.Namespace, f.key.Name))
		if !isTerminal(f.ErrOut) || first != os.Interrupt {
			return stop
		}
		view.Say(fmt.Sprintf("Ctrl-C again within %d s cancels it.", grace/time.Second))
		select {
		case <-signals:
		case <-time.After(grace):
			return stop
		}
	}
	f.cancelled = true
	view.Say("Cancelling the run …")
	_, err := f.client.Desire(ctx, f.key.Namespace, f.key.Name, v1alpha1.DesiredCancelled)
	return err
}

// finish is the exit code of an outcome, as an error.
func finish(o screen.Outcome) error {
	code := exitCode(o)
	if code == ExitSucceeded {
		return nil
	}
	return &exitError{code}
}

func exitCode(o screen.Outcome) int {
	if o.Done == nil {
		return ExitError
	}
	switch v1alpha1.Phase(o.Done.Phase) {
	case v1alpha1.PhaseSucceeded:
		if o.Done.Truncated || !o.Exact {
			return ExitInexact
		}
		return ExitSucceeded
	case v1alpha1.PhaseCancelled:
		return ExitCancelled
	default:
		return failureCode(*o.Done)
	}
}

func failureCode(done stream.Done) int {
	switch done.Reason {
	case v1alpha1.ReasonDeadlineExceeded, v1alpha1.ReasonPendingDeadlineExceeded:
		return ExitDeadline
	default:
		return ExitFailed
	}
}

// object is the run as it stands now.
func (f *following) object(ctx context.Context) (*v1alpha1.ChatRun, error) {
	return f.client.Runs(f.key.Namespace).Get(ctx, f.key.Name, metav1.GetOptions{})
}
