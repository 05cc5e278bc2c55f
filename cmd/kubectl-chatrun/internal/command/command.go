// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package command holds the commands of kubectl chatrun.
package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/rest"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/runs"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/screen"
)

// The exit codes, which are promised in docs/plugin.md.
const (
	ExitSucceeded   = 0
	ExitError       = 1
	ExitFailed      = 2
	ExitCancelled   = 3
	ExitDeadline    = 4
	ExitInexact     = 5
	ExitInterrupted = 130
)

const exitHelp = `The exit code tells the outcome:
  0    the run succeeded, and its answer is on standard output
  1    something else went wrong: usage, rights, connection
  2    the run failed
  3    the run was cancelled
  4    a deadline of the run ran out
  5    the run succeeded, but standard output is not its answer alone and whole
  130  interrupted: the run goes on`

// exitError ends the program with a code; what there is to say was said.
type exitError struct{ code int }

// Error implements error.
func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// plugin is what all commands share.
type plugin struct {
	genericiooptions.IOStreams

	flags   *genericclioptions.ConfigFlags
	version string
}

// Options are what the program is given.
type Options struct {
	genericiooptions.IOStreams

	Args    []string
	Version string
}

// Run is the whole program. It returns the exit code.
func Run(ctx context.Context, o Options) int {
	p := &plugin{IOStreams: o.IOStreams, flags: genericclioptions.NewConfigFlags(true), version: o.Version}
	root := p.root()
	root.SetArgs(o.Args)
	err := root.ExecuteContext(ctx)
	var exit *exitError
	switch {
	case err == nil:
		return ExitSucceeded
	case errors.As(err, &exit):
		return exit.code
	default:
		_, _ = fmt.Fprintln(p.ErrOut, "Error: "+screen.Clean(advise(err)))
		return ExitError
	}
}

func (p *plugin) root() *cobra.Command {
	root := &cobra.Command{
		Use:         "kubectl-chatrun",
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl chatrun"},
		Short:       "Run chats with a model in the cluster",
		Long: "Run chats with a model in the cluster, and follow them: every token, and every retry.\n\n" +
			"A run goes on without whoever started it; follow it again with `kubectl chatrun logs -f`.",
		Example:       "  kubectl chatrun run \"Why is the sky blue?\"\n  kubectl chatrun watch",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetIn(p.In)
	root.SetOut(p.Out)
	root.SetErr(p.ErrOut)
	p.flags.AddFlags(root.PersistentFlags())
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w\nSee '%s --help'", err, cmd.CommandPath())
	})
	root.AddCommand(
		p.runCommand(), p.logsCommand(), p.listCommand(), p.watchCommand(), p.retryCommand(), p.continueCommand(),
		p.stateCommand("cancel", v1alpha1.DesiredCancelled, "cancelled", "End runs for good; the text so far is kept"),
		p.stateCommand("suspend", v1alpha1.DesiredSuspended, "suspended", "Hold runs; the attempt under way is dropped"),
		p.stateCommand("resume", v1alpha1.DesiredRunning, "resumed", "Let suspended runs go on"),
		p.providersCommand(), p.versionCommand(),
	)
	if err := root.RegisterFlagCompletionFunc("namespace", cobra.NoFileCompletions); err != nil {
		panic(err) // the flag was added above
	}
	return root
}

func (p *plugin) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of the plugin", Args: cobra.NoArgs,
		Example: "  kubectl chatrun version",
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(p.Out, p.version)
			return err
		},
	}
}

// config is the API server's, without a throttle: the server has its own.
func (p *plugin) config() (*rest.Config, error) {
	cfg, err := p.flags.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.UserAgent = -1, "kubectl-chatrun/"+p.version
	return cfg, nil
}

func (p *plugin) client() (*runs.Client, error) {
	cfg, err := p.config()
	if err != nil {
		return nil, err
	}
	return runs.New(cfg)
}

// namespace is the one of the flag, or of the kubeconfig.
func (p *plugin) namespace() (string, error) {
	namespace, _, err := p.flags.ToRawKubeConfigLoader().Namespace()
	return namespace, err
}

// at is the client and the namespace, which most commands begin with.
func (p *plugin) at() (*runs.Client, string, error) {
	client, err := p.client()
	if err != nil {
		return nil, "", err
	}
	namespace, err := p.namespace()
	return client, namespace, err
}

// advise adds what to do to an error of the API server.
func advise(err error) string {
	text := err.Error()
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return text
	}
	details := status.Status().Details
	switch {
	case apierrors.IsForbidden(err) && details != nil && details.Group == v1alpha1.GroupVersion.Group:
		return text + "\nYou lack the role chatrun-editor (to start, change and cancel runs) or chatrun-viewer (to read them)" +
			" in this namespace: ask who may give it, or see docs/access.md."
	case apierrors.IsUnauthorized(err):
		return text + "\nThe API server does not know you: look after the user of your kubeconfig (kubectl auth whoami)."
	case apierrors.IsNotFound(err) && (details == nil || details.Name == ""):
		return text + "\nThis cluster does not know ChatRuns: install the operator's CRDs (make install), or look whether this is the right cluster."
	case apierrors.IsNotFound(err):
		return text + "\nIs it in another namespace? kubectl chatrun list -A lists them all."
	default:
		return text
	}
}
