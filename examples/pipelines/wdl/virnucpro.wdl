version 1.0

# miniwdl run virnucpro.wdl sequences=reads.fasta.gz sample=reads
task virnucpro_predict {
    input {
        File sequences
        String sample
        String options = ""
        Int threads = 2
        String docker = "virnucpro-stream:latest"
    }

    command <<<
        set -euo pipefail
        virnucpro predict ~{sequences} --quiet --threads ~{threads} ~{options} \
            --output ~{sample}.tsv \
            --virus-fasta ~{sample}.viruses.fasta.gz \
            --rejected ~{sample}.rejected.tsv \
            --summary ~{sample}.summary.json \
            --multiqc ~{sample}.virnucpro_mqc.json
    >>>

    output {
        File table = "~{sample}.tsv"
        File viruses = "~{sample}.viruses.fasta.gz"
        File rejected = "~{sample}.rejected.tsv"
        File summary = "~{sample}.summary.json"
        File multiqc = "~{sample}.virnucpro_mqc.json"
    }

    runtime {
        docker: docker
        cpu: threads
        memory: "2 GB"
        maxRetries: 2
    }
}
