// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package command

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/printers"
	"k8s.io/client-go/tools/pager"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/runs"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/screen"
)

// phases are those that --phase takes.
var phases = []string{
	string(v1alpha1.PhasePending), string(v1alpha1.PhaseStreaming), string(v1alpha1.PhaseRetrying), string(v1alpha1.PhaseSuspended),
	string(v1alpha1.PhaseSucceeded), string(v1alpha1.PhaseFailed), string(v1alpha1.PhaseCancelled),
}

// wide is kubectl's format of more columns, which its printers leave to us.
const wide = "wide"

// printFlags print an object, or say what was done with it.
func printFlags(done string) *genericclioptions.PrintFlags {
	return genericclioptions.NewPrintFlags(done).WithTypeSetter(runs.Scheme)
}

// chosen are the runs that list and watch show.
type chosen struct {
	all             bool
	selector, phase string
}

func (c *chosen) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVarP(&c.all, "all-namespaces", "A", false, "The runs of all namespaces.")
	f.StringVarP(&c.selector, "selector", "l", "", "Labels of the runs, such as team=a.")
	f.StringVar(&c.phase, "phase", "", "Phase of the runs: "+strings.Join(phases, ", ")+".")
	complete(cmd, "phase", cobra.FixedCompletions(phases, cobra.ShellCompDirectiveNoFileComp))
}

func (c *chosen) options() (metav1.ListOptions, error) {
	options := metav1.ListOptions{LabelSelector: c.selector}
	if c.phase == "" {
		return options, nil
	}
	for _, phase := range phases {
		if strings.EqualFold(phase, c.phase) {
			options.FieldSelector = "status.phase=" + phase
			return options, nil
		}
	}
	return options, fmt.Errorf("--phase %q is none: it is one of %s", c.phase, strings.Join(phases, ", "))
}

// namespace is the one that was chosen, or "" for all.
func (c *chosen) namespace(one string) string {
	if c.all {
		return metav1.NamespaceAll
	}
	return one
}

func (p *plugin) listCommand() *cobra.Command {
	which := &chosen{}
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Args: cobra.NoArgs,
		Short: "List runs, the newest first",
		Long: "List runs, the newest first.\n\nTOKENS are those of the answer. RATE is tokens a second from the first to the last one; ≈ stands where the tokens\n" +
			"of failed attempts may be counted in.",
		Example:           "  kubectl chatrun list\n  kubectl chatrun list -A --phase retrying -o wide\n  kubectl chatrun list -l team=a -o name",
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	which.add(cmd)
	output := p.outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, one, err := p.at()
		if err != nil {
			return err
		}
		options, err := which.options()
		if err != nil {
			return err
		}
		list, err := listRuns(cmd.Context(), client.Runs(which.namespace(one)), options)
		if err != nil {
			return err
		}
		now := time.Now()
		table := screen.NewTable(screen.RunColumns())
		for i := range list.Items {
			screen.AddRow(table, &list.Items[i], screen.RunCells(&list.Items[i], now, ""))
		}
		return p.printList(output, list, table, which.all)
	}
	return cmd
}

// listRuns brings them page by page, the newest first.
func listRuns(ctx context.Context, client *runs.Runs, options metav1.ListOptions) (*v1alpha1.ChatRunList, error) {
	list := &v1alpha1.ChatRunList{}
	pages := pager.New(func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return client.List(ctx, o) })
	err := pages.EachListItem(ctx, options, func(object runtime.Object) error {
		run, is := object.(*v1alpha1.ChatRun)
		if !is {
			return fmt.Errorf("the API server lists a %T", object)
		}
		list.Items = append(list.Items, *run)
		return nil
	})
	slices.SortStableFunc(list.Items, func(a, b v1alpha1.ChatRun) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return list, err
}

func (p *plugin) providersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "providers", Args: cobra.NoArgs, Short: "List the providers that a run may ask",
		Example: "  kubectl chatrun providers", ValidArgsFunction: cobra.NoFileCompletions,
	}
	output := p.outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client, namespace, err := p.at()
		if err != nil {
			return err
		}
		list, err := client.Providers(namespace).List(cmd.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		table := screen.NewTable(screen.ProviderColumns())
		for i := range list.Items {
			screen.AddRow(table, &list.Items[i], screen.ProviderCells(&list.Items[i], time.Now()))
		}
		return p.printList(output, list, table, false)
	}
	return cmd
}

// outputFlag adds -o as kubectl get has it.
func (p *plugin) outputFlag(cmd *cobra.Command) *genericclioptions.PrintFlags {
	output := printFlags("")
	output.AddFlags(cmd)
	cmd.Flags().Lookup("output").Usage = "Format: wide, name, json, yaml and kubectl's other formats."
	return output
}

// printList prints a list as a table, or as the objects that it holds.
func (p *plugin) printList(output *genericclioptions.PrintFlags, list runtime.Object, table *metav1.Table, namespaces bool) error {
	if format := *output.OutputFormat; format != "" && format != wide {
		if err := runs.Name(list); err != nil {
			return err
		}
		printer, err := output.ToPrinter()
		if err != nil {
			return err
		}
		if format != "name" {
			return printer.PrintObj(list, p.Out)
		}
		// The printer of names takes no lists.
		return meta.EachListItem(list, func(object runtime.Object) error { return printer.PrintObj(object, p.Out) })
	}
	if len(table.Rows) == 0 {
		none := "There are none here; with -A, all namespaces are looked at."
		if namespaces {
			none = "There are none."
		}
		_, err := fmt.Fprintln(p.ErrOut, none)
		return err
	}
	return printers.NewTablePrinter(printers.PrintOptions{Wide: *output.OutputFormat == wide, WithNamespace: namespaces}).PrintObj(table, p.Out)
}
