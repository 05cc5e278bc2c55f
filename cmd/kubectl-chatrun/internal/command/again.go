// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/follow"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/runs"
)

// former is the run that a new one is made of, which is called after it unless a flag
// says otherwise.
func (s *starter) former(ctx context.Context, name string) (*runs.Client, *v1alpha1.ChatRun, error) {
	client, namespace, err := s.at()
	if err != nil {
		return nil, nil, err
	}
	run, err := client.Runs(namespace).Get(ctx, name, metav1.GetOptions{})
	if s.prefix == "" {
		s.prefix = name + "-"
	}
	return client, run, err
}

func (p *plugin) retryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retry NAME",
		Short: "Ask the question of a run again, as a new run",
		Long: "Create a run that asks what another one asked, with the same settings where no flag says otherwise, and follow it.\n" +
			"The former run stays as it is.\n\n" + exitHelp,
		Example: `  kubectl chatrun retry hello
  kubectl chatrun retry hello --provider anthropic --model claude-sonnet-4-5`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: p.completeRuns(1),
	}
	s := p.starter(cmd, "")
	s.spec.add(cmd)
	cmd.Flags().StringVar(&s.spec.provider, "provider", "", "ChatProvider to ask, in place of the run's.")
	complete(cmd, "provider", p.completeProviders)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, former, err := s.former(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		run := &v1alpha1.ChatRun{ObjectMeta: metav1.ObjectMeta{Namespace: former.Namespace}, Spec: *former.Spec.DeepCopy()}
		run.Spec.DesiredState = "" // the new one is to run, whatever became of the former
		if err := s.spec.onto(cmd, &run.Spec); err != nil {
			return err
		}
		return s.start(cmd.Context(), client, run)
	}
	return cmd
}

func (p *plugin) continueCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "continue NAME [QUESTION | -]",
		Short: "Go on with the conversation of a run, as a new run",
		Long: "Create a run that goes on from another: the model is asked with all that was asked and answered before, and then\n" +
			"with this question. It waits until the former run has succeeded, and is of the same provider.\n\n" + exitHelp,
		Example: `  kubectl chatrun continue hello "And why is it red in the evening?"
  kubectl chatrun continue hello - <more.txt`,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: p.completeRuns(1),
	}
	s := p.starter(cmd, "")
	s.spec.add(cmd)
	f := cmd.Flags()
	f.StringVar(&s.spec.provider, "provider", "", "ChatProvider to ask, in place of the run's.")
	f.StringVar(&s.spec.system, "system", "", "Instruction in place of the former one.")
	f.BoolVar(&s.stdin, "stdin", true, "Read standard input where it is a pipe or a file. With false only for -.")
	complete(cmd, "provider", p.completeProviders)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		prompt, err := question(args[1:], s.In, s.stdin)
		if err != nil {
			return err
		}
		client, former, err := s.former(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		run := &v1alpha1.ChatRun{ObjectMeta: metav1.ObjectMeta{Namespace: former.Namespace}, Spec: v1alpha1.ChatRunSpec{
			Prompt: prompt, ContinueFrom: &v1alpha1.RunReference{Name: former.Name}, ProviderRef: former.Spec.ProviderRef,
			Model: former.Spec.Model, Parameters: former.Spec.Parameters, RetryPolicy: former.Spec.RetryPolicy, Output: former.Spec.Output,
		}}
		if err := s.spec.onto(cmd, &run.Spec); err != nil {
			return err
		}
		return s.start(cmd.Context(), client, run)
	}
	return cmd
}

func (p *plugin) logsCommand() *cobra.Command {
	var live, hold bool
	doors := &doorFlags{}
	cmd := &cobra.Command{
		Use:   "logs NAME",
		Short: "Print the answer of a run, as far as there is one, or follow it",
		Long: "Print what there is of a run's answer on standard output, and where the run stands on standard error.\n" +
			"With -f follow it to its end.\n\nWith -f: " + exitHelp + "\n\n" + viaHelp,
		Example: `  kubectl chatrun logs hello
  kubectl chatrun logs -f hello
  kubectl chatrun logs -f hello --stream-url https://chatrun.example:8090 --stream-ca ca.crt`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: p.completeRuns(1),
	}
	cmd.Flags().BoolVarP(&live, "follow", "f", false, "Follow the run to its end.")
	holdFlag(cmd, &hold, false)
	doors.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, namespace, err := p.at()
		if err != nil {
			return err
		}
		shown := &following{
			plugin: p, client: client, key: follow.Key{Namespace: namespace, Name: args[0]}, doors: doors,
			live: live, hold: hold && !isTerminal(p.Out), out: p.Out,
		}
		outcome, err := shown.show(cmd.Context())
		if err != nil || !live {
			return err
		}
		return finish(outcome)
	}
	return cmd
}

func (p *plugin) stateCommand(verb string, state v1alpha1.DesiredState, done, short string) *cobra.Command {
	cmd := &cobra.Command{
		Use: verb + " NAME…", Short: short, Args: cobra.MinimumNArgs(1), ValidArgsFunction: p.completeRuns(0),
		Long:    short + ".\n\nEach name is tried, whatever becomes of the others.",
		Example: fmt.Sprintf("  kubectl chatrun %[1]s hello\n  kubectl chatrun %[1]s hello world -n team", verb),
	}
	output := printFlags(done)
	output.AddFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client, namespace, err := p.at()
		if err != nil {
			return err
		}
		printer, err := output.ToPrinter()
		if err != nil {
			return err
		}
		var errs []error
		for _, name := range args {
			run, err := client.Desire(cmd.Context(), namespace, name, state)
			if err == nil {
				err = printer.PrintObj(run, p.Out)
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	return cmd
}
