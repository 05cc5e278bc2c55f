// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

const (
	// namespace is where the samples go, as they would with a plain kubectl apply.
	namespace = "default"
	// managerNamespace and managerAccount are those of config/default.
	managerNamespace = "chatrun-system"
	managerAccount   = "chatrun-manager"
	// tokenLife is how long `make dev` may stay up.
	tokenLife = "168h"
	// startTime and stopTime bound what envtest waits for the control plane.
	startTime = time.Minute
	stopTime  = 20 * time.Second
	// graceTime is how long a process that was told to end may take.
	graceTime = 20 * time.Second
	// cutPause is how often an interrupted start is cut: envtest tries five times.
	cutPause = 50 * time.Millisecond
)

// cluster is a control plane without nodes, and the kubectl that belongs to it.
type cluster struct {
	env       *envtest.Environment
	dir       string
	kubectl   string
	userFile  string // the kubeconfig for people
	adminFile string // the same for our own kubectl
	namespace string
}

// startCluster starts etcd and the API server, and writes the kubeconfigs.
func startCluster(ctx context.Context, dir string, out *screen) (*cluster, error) {
	assets := os.Getenv("KUBEBUILDER_ASSETS")
	if assets == "" {
		return nil, errors.New("KUBEBUILDER_ASSETS is not set: use make demo or make dev")
	}
	out.say("demo", "starting a control plane (etcd and kube-apiserver)")
	own := filepath.Join(dir, runDir)
	env := &envtest.Environment{ControlPlaneStartTimeout: startTime, ControlPlaneStopTimeout: stopTime}
	etcd, server := filepath.Join(own, "etcd"), filepath.Join(own, "apiserver")
	if err := errors.Join(os.Mkdir(etcd, 0o700), os.Mkdir(server, 0o700)); err != nil {
		return nil, err
	}
	env.ControlPlane.Etcd = &envtest.Etcd{DataDir: etcd}
	env.ControlPlane.GetAPIServer().CertDir = server

	begin := time.Now()
	if err := startEnv(ctx, env, own); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the control plane: %w", err), stopEnv(env))
	}
	out.say("demo", "control plane is up after %.1fs", time.Since(begin).Seconds())
	c := &cluster{
		env: env, dir: dir, namespace: namespace,
		kubectl:   filepath.Join(assets, "kubectl"),
		userFile:  filepath.Join(dir, "kubeconfig"),
		adminFile: filepath.Join(own, "admin.kubeconfig"),
	}
	err := errors.Join(os.WriteFile(c.userFile, env.KubeConfig, 0o600), os.WriteFile(c.adminFile, env.KubeConfig, 0o600))
	if err != nil {
		return nil, errors.Join(err, stopEnv(env))
	}
	return c, nil
}

// startEnv starts the control plane. envtest waits for its processes and knows
// no context, so an interrupt ends the processes.
func startEnv(ctx context.Context, env *envtest.Environment, own string) error {
	started := make(chan error, 1)
	go func() {
		_, err := env.Start()
		started <- err
	}()
	select {
	case err := <-started:
		return err
	case <-ctx.Done():
	}
	cut := time.NewTicker(cutPause)
	defer cut.Stop()
	for {
		kill(own)
		select {
		case err := <-started:
			return errors.Join(context.Cause(ctx), err)
		case <-cut.C:
		}
	}
}

// stop ends the control plane.
func (c *cluster) stop() error { return stopEnv(c.env) }

func stopEnv(env *envtest.Environment) error {
	if err := env.Stop(); err != nil {
		return fmt.Errorf("%w: stopping the control plane: %w", errLeft, err)
	}
	return nil
}

// run runs kubectl as admin with some input, and returns what it prints.
func (c *cluster) run(ctx context.Context, input string, args ...string) (string, error) {
	cmd := c.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kubectl %s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// command is kubectl as admin, in a process group of its own: Ctrl-C is for us,
// and we end it in order. Your home keeps nothing of it.
func (c *cluster) command(ctx context.Context, args ...string) *exec.Cmd {
	own := []string{"--kubeconfig=" + c.adminFile, "--cache-dir=" + filepath.Join(c.dir, runDir, "cache")}
	cmd := exec.CommandContext(ctx, c.kubectl, append(own, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = graceTime
	return cmd
}

// install applies config/default, what `make deploy` applies: the kinds, the
// ServiceAccount and its roles. Only the Deployment is left out, for there is no
// node to run it; startManager does that.
func (c *cluster) install(ctx context.Context, out *screen) error {
	manifests, err := c.run(ctx, "", "kustomize", "config/default")
	if err != nil {
		return err
	}
	objects, err := parseManifests(manifests)
	if err != nil {
		return err
	}
	if manifests, err = renderManifests(without(objects, "Deployment")); err != nil {
		return err
	}
	if _, err := c.run(ctx, manifests, "apply", "--server-side", "--filename=-"); err != nil {
		return err
	}
	_, err = c.run(ctx, "", "wait", "--for=condition=Established", "--timeout=30s",
		"crd/chatruns.chatrun.dev", "crd/chatproviders.chatrun.dev")
	if err == nil {
		out.say("demo", "applied config/default: kinds, ServiceAccount, roles")
	}
	return err
}

// managerConfig writes a kubeconfig with a token of the manager's
// ServiceAccount, so that it has the rights of config/rbac and no others.
func (c *cluster) managerConfig(ctx context.Context) (string, error) {
	token, err := c.run(ctx, "", "create", "token", managerAccount, "--namespace="+managerNamespace, "--duration="+tokenLife)
	if err != nil {
		return "", err
	}
	file := filepath.Join(c.dir, runDir, "manager.kubeconfig")
	config := tokenConfig(c.env.Config.Host, c.env.Config.CAData, managerNamespace, strings.TrimSpace(token))
	return file, os.WriteFile(file, config, 0o600)
}

// sayHow tells how to look around with one's own kubectl, and with ours.
func (c *cluster) sayHow(out *screen, address string, stay bool) {
	if !stay {
		out.say("demo", "kubeconfig for the time of the demo: %s (make dev stays up)", c.userFile)
		return
	}
	out.plain(strings.Join([]string{
		"",
		"  In another terminal:",
		"    export KUBECONFIG=" + c.userFile,
		"    alias kubectl=" + c.kubectl + "   # or your own",
		"    export STREAM=http://" + address,
		"    kubectl get chatruns -o wide",
		"    kubectl get chatruns -w",
		"    kubectl get chatruns --field-selector status.phase=Succeeded",
		"    kubectl describe chatrun " + shownRun,
		"    kubectl explain chatrun.spec",
		"    curl -N $STREAM/v1/namespaces/" + c.namespace + "/chatruns/" + shownRun + "/stream",
		"    tail -f " + filepath.Join(c.dir, managerLog),
		"",
	}, "\n"))
}
