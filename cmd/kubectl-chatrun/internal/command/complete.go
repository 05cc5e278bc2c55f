// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// maxCompletions is how many names a shell is offered: more are not chosen from.
	maxCompletions = 250
	// completionTime is how long a person waits for them after a Tab.
	completionTime = 3 * time.Second
)

type completion = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// complete offers values of a flag.
func complete(cmd *cobra.Command, flag string, with completion) {
	if err := cmd.RegisterFlagCompletionFunc(flag, with); err != nil {
		panic(err) // the command has no such flag
	}
}

// completeRuns offers the names of runs for so many arguments, or for all of them (0).
func (p *plugin) completeRuns(arguments int) completion {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if arguments > 0 && len(args) >= arguments {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		client, namespace, err := p.at()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		list, err := client.Runs(namespace).List(ctx, metav1.ListOptions{Limit: maxCompletions})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for i := range list.Items {
			if name := list.Items[i].Name; !slices.Contains(args, name) {
				names = append(names, name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func (p *plugin) completeProviders(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	client, namespace, err := p.at()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	list, err := client.Providers(namespace).List(ctx, metav1.ListOptions{Limit: maxCompletions})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	names := make([]string, 0, len(list.Items))
	for i := range list.Items {
		names = append(names, list.Items[i].Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
