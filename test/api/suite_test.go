// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package api_test shows the custom resources as their users meet them: a real
// API server, the CRDs as they are shipped, kubectl as it is. No controller
// runs, so what these tests see is the schema's own doing.
package api_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"chatrun.dev/operator/api/v1alpha1"
)

// kubectlTimeout is far above what one call takes on a loaded machine, and
// ends a call that hangs before the suite's own limit hides which one it was.
const kubectlTimeout = time.Minute

var (
	environment *envtest.Environment
	api         client.WithWatch
	kubeconfig  string
	cacheDir    string
)

func TestAPI(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "API")
}

var _ = BeforeSuite(func() {
	environment = &envtest.Environment{
		CRDDirectoryPaths:     []string{filepath.Join("..", "..", "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
	}
	config, err := environment.Start()
	Expect(err).NotTo(HaveOccurred(), "KUBEBUILDER_ASSETS must name a directory with etcd, kube-apiserver and kubectl")
	DeferCleanup(func() { Expect(environment.Stop()).To(Succeed()) })
	// The client's own throttle would make the tests wait for nothing.
	config.QPS = -1

	scheme := runtime.NewScheme()
	Expect(corev1.AddToScheme(scheme)).To(Succeed())
	Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())
	api, err = client.NewWithWatch(config, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())

	dir := GinkgoT().TempDir()
	kubeconfig, cacheDir = filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "cache")
	Expect(os.WriteFile(kubeconfig, environment.KubeConfig, 0o600)).To(Succeed())
})

// answer is what a call of kubectl printed, and whether it failed.
type answer struct {
	stdout, stderr string
	err            error
}

// kubectl runs the real kubectl in a namespace, with input as its standard
// input. It may be called from several goroutines at once.
func kubectl(ctx context.Context, namespace, input string, args ...string) answer {
	ctx, cancel := context.WithTimeout(ctx, kubectlTimeout)
	defer cancel()
	args = append([]string{"--kubeconfig", kubeconfig, "--cache-dir", cacheDir, "--namespace", namespace}, args...)
	cmd := exec.CommandContext(ctx, environment.ControlPlane.KubectlPath, args...)
	cmd.Stdin = bytes.NewBufferString(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	return answer{stdout.String(), stderr.String(), err}
}

// mustKubectl is kubectl for a call that has to succeed; it returns what was
// printed.
func mustKubectl(ctx context.Context, namespace string, args ...string) string {
	GinkgoHelper()
	got := kubectl(ctx, namespace, "", args...)
	Expect(got.err).NotTo(HaveOccurred(), got.stderr)
	return got.stdout
}

// newNamespace makes a namespace for one spec, so that what another spec left
// behind is never seen.
func newNamespace(ctx context.Context) string {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "api-"}}
	Expect(api.Create(ctx, namespace)).To(Succeed())
	return namespace.Name
}

// newRun is the least that a run says.
func newRun(namespace, name string) *v1alpha1.ChatRun {
	return &v1alpha1.ChatRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.ChatRunSpec{
			ProviderRef: v1alpha1.ProviderReference{Name: "main"},
			Prompt:      "Why is the sky blue?",
		},
	}
}
