// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/follow"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/runs"
)

// starter is what the commands share that start a run: run, retry and continue.
type starter struct {
	*plugin

	doors  doorFlags
	output *genericclioptions.PrintFlags
	spec   specFlags
	// name or prefix is what the run is called.
	name, prefix              string
	wait, cancel, hold, stdin bool
}

func (p *plugin) starter(cmd *cobra.Command, prefix string) *starter {
	s := &starter{plugin: p, output: printFlags("created")}
	f := cmd.Flags()
	f.StringVar(&s.name, "name", "", "Name of the run.")
	f.StringVar(&s.prefix, "generate-name", prefix, "What a generated name begins with.")
	f.BoolVar(&s.wait, "wait", true, "Follow the run to its end. With false its name is printed and nothing else.")
	f.BoolVar(&s.cancel, "cancel-on-interrupt", false, "Cancel the run on Ctrl-C.")
	holdFlag(cmd, &s.hold, true)
	s.doors.add(cmd)
	s.output.AddFlags(cmd)
	f.Lookup("output").Usage = "Print the run as an object in place of its answer: json, yaml, name and kubectl's other formats."
	return s
}

// holdFlag has a default of each command: who takes an answer from a pipe wants it right,
// who follows wants to see it come.
func holdFlag(cmd *cobra.Command, hold *bool, byDefault bool) {
	cmd.Flags().BoolVar(hold, "hold", byDefault,
		"Where standard output is no terminal: write the text once it is whole. With false it is written as it comes, and may hold that of failed attempts.")
}

// start creates a run, follows it, and prints what was asked for.
func (s *starter) start(ctx context.Context, client *runs.Client, run *v1alpha1.ChatRun) error {
	run.Name, run.GenerateName = s.name, ""
	if s.name == "" {
		run.GenerateName = s.prefix
	}
	printer, err := s.output.ToPrinter()
	if err != nil {
		return err
	}
	created, err := client.Runs(run.Namespace).Create(ctx, run, metav1.CreateOptions{FieldManager: runs.Manager})
	if err != nil {
		return err
	}
	if !s.wait {
		return printer.PrintObj(created, s.Out)
	}
	if _, err := fmt.Fprintf(s.ErrOut, "chatrun/%s created in %s\n", created.Name, created.Namespace); err != nil {
		return err
	}
	shown := &following{
		plugin: s.plugin, client: client, key: follow.Key{Namespace: created.Namespace, Name: created.Name}, doors: &s.doors,
		live: true, cancel: s.cancel, out: s.Out,
	}
	shown.hold = s.hold && !isTerminal(s.Out)
	asObject := *s.output.OutputFormat != ""
	if asObject {
		shown.out, shown.hold = io.Discard, true
	}
	outcome, err := shown.show(ctx)
	if err != nil {
		return err
	}
	if asObject {
		object, err := shown.object(ctx)
		if err != nil {
			return err
		}
		if err := printer.PrintObj(object, s.Out); err != nil {
			return err
		}
	}
	return finish(outcome)
}

// specFlags are fields of a run.
type specFlags struct {
	provider, model, system, temperature, title string
	maxAttempts, maxOutputTokens                int32
	deadline, ttl                               time.Duration
}

// add adds the flags that each command has which starts a run.
func (s *specFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.model, "model", "", "Model to ask; without it the provider's default.")
	f.Int32Var(&s.maxAttempts, "max-attempts", 0, "How often the provider may be asked; 1 never tries again.")
	f.StringVar(&s.temperature, "temperature", "", "Between 0 and 2, as a decimal number.")
	f.Int32Var(&s.maxOutputTokens, "max-output-tokens", 0, "Bound of the answer.")
	f.DurationVar(&s.deadline, "deadline", 0, "Time for all attempts and waits together, such as 5m.")
	f.DurationVar(&s.ttl, "ttl", 0, "Delete the run this long after its end.")
	f.StringVar(&s.title, "title", "", "Whether a title is made of the question: generate (the API's default) or none.")
	complete(cmd, "title", cobra.FixedCompletions([]string{"none", "generate"}, cobra.ShellCompDirectiveNoFileComp))
}

// onto sets what the flags say, and leaves the rest as it is.
func (s *specFlags) onto(cmd *cobra.Command, spec *v1alpha1.ChatRunSpec) error {
	set := cmd.Flags().Changed
	if set("provider") {
		spec.ProviderRef.Name = s.provider
	}
	if set("model") {
		spec.Model = s.model
	}
	if set("system") {
		spec.System = s.system
	}
	if set("max-attempts") {
		policy := v1alpha1.RetryPolicy{}
		if spec.RetryPolicy != nil {
			policy = *spec.RetryPolicy
		}
		policy.MaxAttempts = &s.maxAttempts
		spec.RetryPolicy = &policy
	}
	if set("temperature") || set("max-output-tokens") {
		parameters := v1alpha1.Parameters{}
		if spec.Parameters != nil {
			parameters = *spec.Parameters
		}
		if set("temperature") {
			parameters.Temperature = s.temperature
		}
		if set("max-output-tokens") {
			parameters.MaxOutputTokens = &s.maxOutputTokens
		}
		spec.Parameters = &parameters
	}
	return s.times(cmd, spec)
}

func (s *specFlags) times(cmd *cobra.Command, spec *v1alpha1.ChatRunSpec) error {
	set := cmd.Flags().Changed
	if set("deadline") {
		seconds, err := whole("deadline", s.deadline)
		if err != nil {
			return err
		}
		spec.ActiveDeadlineSeconds = &seconds
	}
	if set("ttl") {
		seconds, err := whole("ttl", s.ttl)
		if err != nil {
			return err
		}
		spec.TTLSecondsAfterFinished = new(int32(min(seconds, maxTTL)))
	}
	switch {
	case !set("title"):
	case strings.EqualFold(s.title, string(v1alpha1.TitleNone)):
		spec.Title = &v1alpha1.Title{Policy: v1alpha1.TitleNone}
	case strings.EqualFold(s.title, string(v1alpha1.TitleGenerate)):
		spec.Title = &v1alpha1.Title{Policy: v1alpha1.TitleGenerate}
	default:
		return fmt.Errorf("--title %q: it is generate or none", s.title)
	}
	return nil
}

// maxTTL is the most that the field holds, 68 years.
const maxTTL = 1<<31 - 1

// whole is a time in the API's seconds.
func whole(flag string, d time.Duration) (int64, error) {
	if d < 0 || d%time.Second != 0 {
		return 0, fmt.Errorf("--%s %s: it is in whole seconds, such as 90s or 5m", flag, d)
	}
	return int64(d / time.Second), nil
}

func (p *plugin) runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run [QUESTION | -]",
		Short: "Ask a model, and follow the answer",
		Long: "Create a ChatRun, follow it, and print its answer on standard output. All else goes to standard error.\n\n" +
			"The question is the argument, or comes by a pipe (or -), or both: then the argument stands above.\n" +
			"Without --provider the only provider of the namespace is asked.\n\n" + exitHelp + "\n\n" + viaHelp,
		Example: `  kubectl chatrun run "Why is the sky blue?" --provider openai
  git diff | kubectl chatrun run "Review this change" --model gpt-5
  kubectl chatrun run - --title none <question.txt >answer.txt
  kubectl chatrun run "Count to ten" --max-attempts 3 --deadline 2m --wait=false -o name`,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	s := p.starter(cmd, "chat-")
	s.spec.add(cmd)
	f := cmd.Flags()
	f.StringVar(&s.spec.provider, "provider", "", "ChatProvider to ask.")
	f.StringVar(&s.spec.system, "system", "", "Instruction before the question.")
	f.BoolVar(&s.stdin, "stdin", true, "Read standard input where it is a pipe or a file. With false only for -.")
	complete(cmd, "provider", p.completeProviders)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		prompt, err := question(args, s.In, s.stdin)
		if err != nil {
			return err
		}
		client, namespace, err := p.at()
		if err != nil {
			return err
		}
		run := &v1alpha1.ChatRun{ObjectMeta: metav1.ObjectMeta{Namespace: namespace}, Spec: v1alpha1.ChatRunSpec{Prompt: prompt}}
		if err := s.spec.onto(cmd, &run.Spec); err != nil {
			return err
		}
		if run.Spec.ProviderRef.Name, err = provider(ctx, client, namespace, s.spec.provider); err != nil {
			return err
		}
		return s.start(ctx, client, run)
	}
	return cmd
}

// provider is the one that was named, if it is there, or else the only one.
func provider(ctx context.Context, client *runs.Client, namespace, name string) (string, error) {
	list, err := client.Providers(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		if apierrors.IsForbidden(err) && name != "" {
			return name, nil // who may not look may ask all the same
		}
		return "", err
	}
	names := make([]string, 0, len(list.Items))
	for _, p := range list.Items {
		if p.Name == name {
			return name, nil
		}
		names = append(names, p.Name)
	}
	there := fmt.Sprintf("in the namespace %s there is %s", namespace, strings.Join(names, ", "))
	switch {
	case len(names) == 0:
		return "", fmt.Errorf("there is no ChatProvider in the namespace %s: ask who runs the cluster for one, name another namespace with -n, or see docs/chatprovider.md", namespace)
	case name != "":
		return "", fmt.Errorf("there is no ChatProvider %q: %s", name, there)
	case len(names) > 1:
		return "", errors.New("there is more than one ChatProvider, so say which with --provider: " + there)
	default:
		return names[0], nil
	}
}
