// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Command kubectl-chatrun is the plugin `kubectl chatrun`.
package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-logr/logr"
	"github.com/moby/term"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth/oidc" // users of a kubeconfig's auth-provider
	"k8s.io/klog/v2"

	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/command"
)

// version is set by the linker.
var version = "dev"

// completer begins the name under which kubectl asks for completions.
const completer = "kubectl_complete-"

func main() {
	klog.SetLogger(logr.Discard()) // client-go's would be written over what is drawn
	args := os.Args[1:]
	if strings.HasPrefix(filepath.Base(os.Args[0]), completer) {
		args = append([]string{"__complete"}, args...)
	}
	// On Windows these speak what terminals speak, or are none.
	in, out, err := term.StdStreams()
	os.Exit(command.Run(context.Background(), command.Options{
		IOStreams: genericiooptions.IOStreams{In: in, Out: out, ErrOut: err}, Args: args, Version: version,
	}))
}
